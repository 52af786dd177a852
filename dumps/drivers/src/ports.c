/*
 * ports: allocates through the drivers that other drivers are built upon, and not from the kernel's own functions.
 * Each way has its own tag. No real driver uses so many of them at once; each call is as a real one makes it.
 */
#include "device.h"
#include "miniports.h"

#define IOCTL_PORTS_FIRST CUSTOM_IOCTL(0x860)

typedef struct {
    HANDLE Adapter;
    FLT_FILTER *Filter;
    void *Blocks[12];
} PORTS_STATE;

static PORTS_STATE PortsState;

static NOINLINE void *PortsNdisMemory(ULONG bytes)
{
    void *block;

    return NT_SUCCESS(NdisAllocateMemoryWithTag(&block, bytes, 'emdN')) ? block : NULL;
}

static NOINLINE void *PortsNdisPriority(ULONG bytes)
{
    return NdisAllocateMemoryWithTagPriority(PortsState.Adapter, bytes, 'rpdN', NormalPoolPriority);
}

/* The sizes are known only at run time: the tag is stored alone. */
static NOINLINE HANDLE PortsListPool(ULONG data_bytes, USHORT context_bytes)
{
    NET_BUFFER_LIST_POOL_PARAMETERS parameters;

    parameters.Header.Type = NDIS_OBJECT_TYPE_DEFAULT;
    parameters.Header.Revision = 1;
    parameters.Header.Size = sizeof(parameters);
    parameters.ProtocolId = NDIS_DEFAULT_PROTOCOL_ID;
    parameters.fAllocateNetBuffer = TRUE;
    parameters.ContextSize = context_bytes;
    parameters.PoolTag = 'plbN';
    parameters.DataSize = data_bytes;
    return NdisAllocateNetBufferListPool(PortsState.Adapter, &parameters);
}

/* All sixteen bytes are known: compilers store them at once, out of read-only data. */
static NOINLINE HANDLE PortsConstantListPool(void)
{
    NET_BUFFER_LIST_POOL_PARAMETERS parameters = {
        .Header = {NDIS_OBJECT_TYPE_DEFAULT, 1, sizeof(parameters)},
        .fAllocateNetBuffer = TRUE,
        .ContextSize = 0x20,
        .PoolTag = 'vlbN',
        .DataSize = 0x600,
    };

    return NdisAllocateNetBufferListPool(PortsState.Adapter, &parameters);
}

/* Header and tag are eight known bytes. */
static NOINLINE HANDLE PortsBufferPool(ULONG data_bytes)
{
    NET_BUFFER_POOL_PARAMETERS parameters = {
        .Header = {NDIS_OBJECT_TYPE_DEFAULT, 1, sizeof(parameters)},
        .PoolTag = 'obpN',
        .DataSize = data_bytes,
    };

    return NdisAllocateNetBufferPool(PortsState.Adapter, &parameters);
}

static NOINLINE void *PortsStorage(void *extension, ULONG bytes)
{
    void *block;

    return StorPortExtendedFunction(ExtFunctionAllocatePool, extension, bytes, 'lptS', &block) == 0 ? block : NULL;
}

static NOINLINE void *PortsVideo(void *extension, ULONG bytes)
{
    return VideoPortAllocatePool(extension, VpPagedPool, bytes, 'lpdV');
}

static NOINLINE void *PortsRuntime(ULONG bytes)
{
    return FsRtlAllocatePoolWithTag(PagedPool, bytes, 'lptR');
}

static NOINLINE void *PortsQuota(ULONG bytes)
{
    return ExAllocatePoolWithQuotaTag(PagedPool, bytes, 'touQ');
}

static NOINLINE void *PortsPriority(ULONG bytes)
{
    return ExAllocatePoolWithTagPriority(NonPagedPool, bytes, 'oirP', NormalPoolPriority);
}

static NOINLINE void *PortsFilter(FLT_INSTANCE *instance, ULONG bytes)
{
    return FltAllocatePoolAlignedWithTag(instance, NonPagedPoolNx, bytes, 'lptF');
}

static const FLT_CONTEXT_REGISTRATION PortsContexts[] = {
    {.ContextType = FLT_STREAMHANDLE_CONTEXT, .Size = 0x30, .PoolTag = 'hctF'},
    {.ContextType = FLT_STREAM_CONTEXT, .Size = 0x80, .PoolTag = 'sctF'},
    {.ContextType = FLT_CONTEXT_END},
};

static const FLT_OPERATION_REGISTRATION PortsOperations[] = {{.MajorFunction = IRP_MJ_OPERATION_END}};

static const FLT_REGISTRATION PortsRegistration = {
    .Size = sizeof(FLT_REGISTRATION),
    .Version = FLT_REGISTRATION_VERSION,
    .ContextRegistration = PortsContexts,
    .OperationRegistration = PortsOperations,
};

static NTSTATUS NTAPI PortsDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    ULONG bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    ULONG way = (stack->Parameters.DeviceIoControl.IoControlCode - IOCTL_PORTS_FIRST) >> 2;
    void *block;

    switch (way) {
    case 0:
        block = PortsNdisMemory(bytes);
        break;
    case 1:
        block = PortsNdisPriority(bytes);
        break;
    case 2:
        block = PortsListPool(bytes, (USHORT)(bytes / 8));
        break;
    case 3:
        block = PortsConstantListPool();
        break;
    case 4:
        block = PortsBufferPool(bytes);
        break;
    case 5:
        block = PortsStorage(device, bytes);
        break;
    case 6:
        block = PortsVideo(device, bytes);
        break;
    case 7:
        block = PortsRuntime(bytes);
        break;
    case 8:
        block = PortsQuota(bytes);
        break;
    case 9:
        block = PortsPriority(bytes);
        break;
    case 10:
        block = PortsFilter(irp->SystemBuffer, bytes);
        break;
    default:
        return CompleteIrp(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
    PortsState.Blocks[way] = block;
    return CompleteIrp(irp, block != NULL ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES, 0);
}

static PAGED_CODE void NTAPI PortsUnload(DRIVER_OBJECT *driver)
{
    FltUnregisterFilter(PortsState.Filter);
    IoDeleteDevice(driver->DeviceObject);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Ports");
    NTSTATUS status = FltRegisterFilter(driver, &PortsRegistration, &PortsState.Filter);

    (void)registry_path;
    return NT_SUCCESS(status) ? CreateControlDevice(driver, &name, PortsDeviceControl, PortsUnload) : status;
}
