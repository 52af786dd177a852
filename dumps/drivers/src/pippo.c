/*
 * pippo: every "submit" request keeps a copy of its input in nonpaged pool; only an explicit "forget" frees one.
 * Tag Pipo, handed to ExAllocatePoolWithTag directly.
 */
#include "device.h"

#define PIPPO_TAG 'opiP'
#define PIPPO_PAYLOAD_BYTES 0x150
#define IOCTL_PIPPO_SUBMIT CUSTOM_IOCTL(0x800)
#define IOCTL_PIPPO_FORGET CUSTOM_IOCTL(0x801)

typedef struct {
    LIST_ENTRY Link;
    DEVICE_OBJECT *Device;
    ULONG Ticket;
    ULONG PayloadBytes;
    UCHAR Payload[PIPPO_PAYLOAD_BYTES];
} PIPPO_REQUEST;

static LIST_ENTRY PippoRequests = EMPTY_LIST(PippoRequests);
static ERESOURCE PippoLock;
static ULONG PippoLastTicket;

static NOINLINE NTSTATUS PippoSubmit(DEVICE_OBJECT *device, const UCHAR *input, ULONG input_bytes, ULONG *ticket)
{
    PIPPO_REQUEST *request = ExAllocatePoolWithTag(NonPagedPool, sizeof(PIPPO_REQUEST), PIPPO_TAG);

    if (request == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    request->Device = device;
    request->PayloadBytes = input_bytes < PIPPO_PAYLOAD_BYTES ? input_bytes : PIPPO_PAYLOAD_BYTES;
    CopyBytes(request->Payload, input, request->PayloadBytes);
    ExEnterCriticalRegionAndAcquireResourceExclusive(&PippoLock);
    request->Ticket = *ticket = ++PippoLastTicket;
    InsertTailList(&PippoRequests, &request->Link);
    ExReleaseResourceAndLeaveCriticalRegion(&PippoLock);
    return STATUS_SUCCESS;
}

static NOINLINE NTSTATUS PippoForget(ULONG ticket)
{
    PIPPO_REQUEST *found = NULL;

    ExEnterCriticalRegionAndAcquireResourceExclusive(&PippoLock);
    for (LIST_ENTRY *link = PippoRequests.Flink; link != &PippoRequests; link = link->Flink) {
        PIPPO_REQUEST *request = CONTAINING_RECORD(link, PIPPO_REQUEST, Link);
        if (request->Ticket == ticket) {
            RemoveEntryList(link);
            found = request;
            break;
        }
    }
    ExReleaseResourceAndLeaveCriticalRegion(&PippoLock);
    if (found == NULL) {
        return STATUS_NOT_FOUND;
    }
    ExFreePoolWithTag(found, PIPPO_TAG);
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI PippoDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    ULONG input_bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    ULONG *ticket = irp->SystemBuffer;
    NTSTATUS status;

    if (input_bytes < sizeof(ULONG) || stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(ULONG)) {
        return CompleteIrp(irp, STATUS_BUFFER_TOO_SMALL, 0);
    }
    switch (stack->Parameters.DeviceIoControl.IoControlCode) {
    case IOCTL_PIPPO_SUBMIT:
        status = PippoSubmit(device, irp->SystemBuffer, input_bytes, ticket);
        break;
    case IOCTL_PIPPO_FORGET:
        status = PippoForget(*ticket);
        break;
    default:
        status = STATUS_INVALID_DEVICE_REQUEST;
        break;
    }
    return CompleteIrp(irp, status, NT_SUCCESS(status) ? sizeof(ULONG) : 0);
}

static PAGED_CODE void NTAPI PippoUnload(DRIVER_OBJECT *driver)
{
    IoDeleteDevice(driver->DeviceObject);
    ExDeleteResourceLite(&PippoLock);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Pippo");

    (void)registry_path;
    ExInitializeResourceLite(&PippoLock);
    return CreateControlDevice(driver, &name, PippoDeviceControl, PippoUnload);
}
