/*
 * innocent: much in it looks like a pool tag, and only one is (Innc): text, magic numbers, formats of pictures, the
 * tags that it looks for in others' blocks. A library that is linked into many drivers brings its own tags.
 */
#include "device.h"
#include "securitylibrary.h"

#define INNOCENT_SIGNATURE 'rngS'
#define IOCTL_INNOCENT_LOAD CUSTOM_IOCTL(0x880)
#define IOCTL_INNOCENT_JUDGE CUSTOM_IOCTL(0x881)
#define IOCTL_INNOCENT_PROTECT CUSTOM_IOCTL(0x882)

typedef enum { FormatNv12 = '21VN', FormatYuy2 = '2YUY', FormatGrey = '008Y', FormatMotionJpeg = 'GPJM' } FOURCC;

typedef struct {
    LIST_ENTRY Link;
    ULONG Signature;
    FOURCC Format;
    ULONG RowBytes;
} INNOCENT_PICTURE;

/* Others may read it. */
extern ULONG InnocentRequest;
ULONG InnocentRequest;

static const char InnocentUsage[] = "innocent: usage: tag=Usg1 limit=... (tags: Txt1 Txt2 Txt3)";
static LIST_ENTRY InnocentPictures = EMPTY_LIST(InnocentPictures);

static NOINLINE ULONG InnocentRowBytes(FOURCC format, ULONG pixels)
{
    switch (format) {
    case FormatNv12:
        return pixels * 3 / 2;
    case FormatYuy2:
        return pixels * 2;
    case FormatGrey:
        return pixels;
    case FormatMotionJpeg:
        return pixels / 4;
    }
    return 0;
}

static NOINLINE NTSTATUS InnocentLoad(FOURCC format, ULONG pixels)
{
    INNOCENT_PICTURE *picture = ExAllocatePoolWithTag(PagedPool, sizeof(INNOCENT_PICTURE), 'cnnI');

    if (picture == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    picture->Signature = INNOCENT_SIGNATURE;
    picture->Format = format;
    picture->RowBytes = InnocentRowBytes(format, pixels);
    InsertTailList(&InnocentPictures, &picture->Link);
    return STATUS_SUCCESS;
}

/* Counts the blocks of another driver in a copy of its pool page, and says what it saw. */
static NOINLINE ULONG InnocentJudge(const ULONG *words, ULONG count)
{
    ULONG found = 0;

    for (ULONG n = 0; n < count; n++) {
        if (words[n] == 'dpmC') {
            found++;
        }
    }
    if (found != 0) {
        DbgPrint("innocent: %u blocks with the tag %08x (Fmt1), as Fmt2 says\n", found, 'dtrP');
    } else {
        DbgPrint(InnocentUsage);
    }
    return found;
}

static NTSTATUS NTAPI InnocentDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    ULONG words = stack->Parameters.DeviceIoControl.InputBufferLength / sizeof(ULONG);
    ULONG *input = irp->SystemBuffer;
    NTSTATUS status = STATUS_INVALID_DEVICE_REQUEST;

    (void)device;
    InnocentRequest = 'tsqR';
    switch (stack->Parameters.DeviceIoControl.IoControlCode) {
    case IOCTL_INNOCENT_LOAD:
        status = words >= 2 ? InnocentLoad((FOURCC)input[0], input[1]) : STATUS_BUFFER_TOO_SMALL;
        break;
    case IOCTL_INNOCENT_JUDGE:
        status = InnocentJudge(input, words) != 0 ? STATUS_SUCCESS : STATUS_NOT_FOUND;
        break;
    case IOCTL_INNOCENT_PROTECT:
        status = SecurityLibraryApply(input, words);
        break;
    }
    return CompleteIrp(irp, status, 0);
}

static PAGED_CODE void NTAPI InnocentUnload(DRIVER_OBJECT *driver)
{
    IoDeleteDevice(driver->DeviceObject);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Innocent");

    (void)registry_path;
    return CreateControlDevice(driver, &name, InnocentDeviceControl, InnocentUnload);
}
