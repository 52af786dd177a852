/*
 * lookas: a packet queue whose packets and page descriptors come from two lookaside lists.
 * Tag Look, handed over only when the lists are initialised: on x64 both times on the stack.
 */
#include "device.h"
#include "lookaside.h"

#define LOOKAS_TAG 'kooL'
#define LOOKAS_PACKET_BYTES 0xC0
#define LOOKAS_DESCRIPTOR_BYTES 0x40
#define IOCTL_LOOKAS_QUEUE CUSTOM_IOCTL(0x820)
#define IOCTL_LOOKAS_DRAIN CUSTOM_IOCTL(0x821)

typedef struct {
    LIST_ENTRY Link;
    void *Descriptor;
    UCHAR Payload[LOOKAS_PACKET_BYTES - sizeof(LIST_ENTRY) - sizeof(void *)];
} LOOKAS_PACKET;

static NPAGED_LOOKASIDE_LIST LookasPackets;
static LOOKASIDE_LIST_EX LookasDescriptors;
static LIST_ENTRY LookasQueue = EMPTY_LIST(LookasQueue);

static NOINLINE NTSTATUS LookasCreateLists(void)
{
    ExInitializeNPagedLookasideList(&LookasPackets, NULL, NULL, 0, sizeof(LOOKAS_PACKET), LOOKAS_TAG, 0);
    return ExInitializeLookasideListEx(&LookasDescriptors, NULL, NULL, NonPagedPoolNx, 0, LOOKAS_DESCRIPTOR_BYTES,
                                       LOOKAS_TAG, 0);
}

static NOINLINE NTSTATUS LookasEnqueue(const UCHAR *input, ULONG input_bytes)
{
    LOOKAS_PACKET *packet = AllocateFromNPagedLookasideList(&LookasPackets);

    if (packet == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    packet->Descriptor = AllocateFromLookasideListEx(&LookasDescriptors);
    CopyBytes(packet->Payload, input, input_bytes < sizeof(packet->Payload) ? input_bytes : sizeof(packet->Payload));
    InsertTailList(&LookasQueue, &packet->Link);
    return STATUS_SUCCESS;
}

static NOINLINE NTSTATUS LookasDrain(void)
{
    while (LookasQueue.Flink != &LookasQueue) {
        LOOKAS_PACKET *packet = CONTAINING_RECORD(RemoveHeadList(&LookasQueue), LOOKAS_PACKET, Link);
        if (packet->Descriptor != NULL) {
            FreeToLookasideListEx(&LookasDescriptors, packet->Descriptor);
        }
        FreeToNPagedLookasideList(&LookasPackets, packet);
    }
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI LookasDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    NTSTATUS status;

    (void)device;
    switch (stack->Parameters.DeviceIoControl.IoControlCode) {
    case IOCTL_LOOKAS_QUEUE:
        status = LookasEnqueue(irp->SystemBuffer, stack->Parameters.DeviceIoControl.InputBufferLength);
        break;
    case IOCTL_LOOKAS_DRAIN:
        status = LookasDrain();
        break;
    default:
        status = STATUS_INVALID_DEVICE_REQUEST;
        break;
    }
    return CompleteIrp(irp, status, 0);
}

static PAGED_CODE void NTAPI LookasUnload(DRIVER_OBJECT *driver)
{
    LookasDrain();
    IoDeleteDevice(driver->DeviceObject);
    ExDeleteLookasideListEx(&LookasDescriptors);
    ExDeleteNPagedLookasideList(&LookasPackets);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Lookas");
    NTSTATUS status;

    (void)registry_path;
    status = LookasCreateLists();
    return NT_SUCCESS(status) ? CreateControlDevice(driver, &name, LookasDeviceControl, LookasUnload) : status;
}
