/*
 * pagella: collects report pages in paged pool and returns a page only when the report is closed in good order.
 * Tag Pgla, handed to the allocator by a wrapper function, and by a second wrapper that calls the first.
 */
#include "device.h"

#define PAGELLA_TAG 'algP'
#define PAGELLA_TITLE_CHARACTERS 32
#define IOCTL_PAGELLA_OPEN CUSTOM_IOCTL(0x810)
#define IOCTL_PAGELLA_APPEND CUSTOM_IOCTL(0x811)
#define IOCTL_PAGELLA_CLOSE CUSTOM_IOCTL(0x812)

typedef struct PAGELLA_PAGE {
    struct PAGELLA_PAGE *Previous;
    ULONG TextBytes;
    UCHAR *Text;
} PAGELLA_PAGE;

typedef struct {
    PAGELLA_PAGE *LastPage;
    ULONG Pages;
    WCHAR Title[PAGELLA_TITLE_CHARACTERS];
} PAGELLA_REPORT;

static PAGELLA_REPORT *PagellaReport;

/* External linkage: the compiler must not specialise the wrappers for the one tag that this file knows. */
void *PagellaAllocate(ULONG tag, SIZE_T bytes);
UCHAR *PagellaDuplicate(const UCHAR *data, ULONG tag, SIZE_T bytes);
void PagellaRelease(void *block, ULONG tag);

PAGED_CODE void *PagellaAllocate(ULONG tag, SIZE_T bytes)
{
    return bytes != 0 ? ExAllocatePoolWithTag(PagedPool, bytes, tag) : NULL;
}

PAGED_CODE UCHAR *PagellaDuplicate(const UCHAR *data, ULONG tag, SIZE_T bytes)
{
    UCHAR *copy = PagellaAllocate(tag, bytes);

    if (copy != NULL) {
        CopyBytes(copy, data, bytes);
    }
    return copy;
}

PAGED_CODE void PagellaRelease(void *block, ULONG tag)
{
    if (block != NULL) {
        ExFreePoolWithTag(block, tag);
    }
}

static NOINLINE NTSTATUS PagellaOpen(void)
{
    PagellaReport = PagellaAllocate(PAGELLA_TAG, sizeof(PAGELLA_REPORT));
    if (PagellaReport == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    PagellaReport->LastPage = NULL;
    PagellaReport->Pages = 0;
    PagellaReport->Title[0] = 0;
    return STATUS_SUCCESS;
}

static NOINLINE NTSTATUS PagellaAppend(const UCHAR *text, ULONG text_bytes)
{
    PAGELLA_PAGE *page = PagellaAllocate(PAGELLA_TAG, sizeof(PAGELLA_PAGE));

    if (page == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    page->Text = PagellaDuplicate(text, PAGELLA_TAG, text_bytes);
    page->TextBytes = text_bytes;
    page->Previous = PagellaReport->LastPage;
    PagellaReport->LastPage = page;
    PagellaReport->Pages++;
    return STATUS_SUCCESS;
}

static NOINLINE NTSTATUS PagellaClose(void)
{
    PAGELLA_PAGE *page = PagellaReport->LastPage;

    while (page != NULL) {
        PAGELLA_PAGE *previous = page->Previous;
        PagellaRelease(page->Text, PAGELLA_TAG);
        PagellaRelease(page, PAGELLA_TAG);
        page = previous;
    }
    PagellaRelease(PagellaReport, PAGELLA_TAG);
    PagellaReport = NULL;
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI PagellaDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    ULONG code = stack->Parameters.DeviceIoControl.IoControlCode;
    NTSTATUS status = STATUS_INVALID_DEVICE_REQUEST;

    (void)device;
    if (code == IOCTL_PAGELLA_OPEN) {
        status = PagellaOpen(); /* a report still open is forgotten here with all its pages */
    } else if (code == IOCTL_PAGELLA_APPEND && PagellaReport != NULL) {
        status = PagellaAppend(irp->SystemBuffer, stack->Parameters.DeviceIoControl.InputBufferLength);
    } else if (code == IOCTL_PAGELLA_CLOSE && PagellaReport != NULL) {
        status = PagellaClose();
    }
    return CompleteIrp(irp, status, 0);
}

static PAGED_CODE void NTAPI PagellaUnload(DRIVER_OBJECT *driver)
{
    IoDeleteDevice(driver->DeviceObject);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Pagella");

    (void)registry_path;
    return CreateControlDevice(driver, &name, PagellaDeviceControl, PagellaUnload);
}
