/*
 * twintwo: the newer of two products of one house; remembers each image that a process loads.
 * Tag Dupl, shared with twinone, handed to ExAllocatePool2.
 */
#include "kernel.h"

#define TWIN_TAG 'lpuD'
#define TWINTWO_KEPT_IMAGES 4096

typedef struct {
    LIST_ENTRY Link;
    HANDLE ProcessId;
    void *ImageBase;
    SIZE_T ImageSize;
} TWINTWO_IMAGE;

static LIST_ENTRY TwintwoImages = EMPTY_LIST(TwintwoImages);
static ULONG TwintwoCount;
static ERESOURCE TwintwoLock;

static NOINLINE void TwintwoForgetOldest(void)
{
    ExFreePoolWithTag(CONTAINING_RECORD(RemoveHeadList(&TwintwoImages), TWINTWO_IMAGE, Link), TWIN_TAG);
    TwintwoCount--;
}

static void NTAPI TwintwoImageLoaded(UNICODE_STRING *path, HANDLE process_id, IMAGE_INFO *image)
{
    TWINTWO_IMAGE *record = ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(TWINTWO_IMAGE), TWIN_TAG);

    (void)path;
    if (record == NULL) {
        return;
    }
    record->ProcessId = process_id;
    record->ImageBase = image->ImageBase;
    record->ImageSize = image->ImageSize;
    ExEnterCriticalRegionAndAcquireResourceExclusive(&TwintwoLock);
    InsertTailList(&TwintwoImages, &record->Link);
    if (++TwintwoCount > TWINTWO_KEPT_IMAGES) {
        TwintwoForgetOldest();
    }
    ExReleaseResourceAndLeaveCriticalRegion(&TwintwoLock);
}

static PAGED_CODE void NTAPI TwintwoUnload(DRIVER_OBJECT *driver)
{
    (void)driver;
    PsRemoveLoadImageNotifyRoutine(TwintwoImageLoaded);
    while (TwintwoImages.Flink != &TwintwoImages) {
        TwintwoForgetOldest();
    }
    ExDeleteResourceLite(&TwintwoLock);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    (void)registry_path;
    ExInitializeResourceLite(&TwintwoLock);
    driver->DriverUnload = TwintwoUnload;
    return PsSetLoadImageNotifyRoutine(TwintwoImageLoaded);
}
