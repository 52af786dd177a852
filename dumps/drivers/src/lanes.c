/*
 * lanes: tags that travel in structures: to a function that takes its request by a pointer, and to one that the type of
 * an object names at run time; and an allocator whose name is put into a string before it is looked up.
 */
#include "allocators.h"
#include "device.h"

#define IOCTL_LANES_FIRST CUSTOM_IOCTL(0x8E0)
#define MAX_TYPES 4

typedef struct {
    SIZE_T Bytes;
    ULONG Tag;
} LANES_REQUEST;

typedef NTSTATUS LANES_SET_UP(void *object, void *parameter);
typedef void LANES_TEAR_DOWN(void *object);

typedef struct {
    LANES_SET_UP *SetUp;
    LANES_TEAR_DOWN *TearDown;
} LANES_FUNCTIONS;

typedef struct {
    ULONG Objects;
    LANES_FUNCTIONS Functions;
} LANES_TYPE;

typedef void *NTAPI ALLOCATE_POOL(POOL_TYPE type, SIZE_T bytes, ULONG tag);

IMPORT void NTAPI RtlInitUnicodeString(UNICODE_STRING *string, const WCHAR *text);

static LANES_TYPE LanesTypes[MAX_TYPES];
static ULONG LanesTypeCount;
static LANES_TYPE *LanesListType;
static NPAGED_LOOKASIDE_LIST LanesList;
__declspec(dllexport) ALLOCATE_POOL *LanesAllocatePool;

void *LanesAllocate(const LANES_REQUEST *request);
LANES_TYPE *LanesRegister(const LANES_FUNCTIONS *functions);
NTSTATUS LanesCreate(LANES_TYPE *type, void *object, void *parameter);
NTSTATUS LanesCreateList(void *list, SIZE_T bytes, ULONG tag);
NTSTATUS LanesSetUpList(void *object, void *parameter);
void LanesTearDownList(void *object);

NOIPA void *LanesAllocate(const LANES_REQUEST *request)
{
    void *block = ExAllocatePoolWithTag(NonPagedPoolNx, request->Bytes + 0x10, request->Tag);

    if (block != NULL) {
        ClearBytes(block, request->Bytes);
    }
    return block;
}

NOIPA NTSTATUS LanesSetUpList(void *object, void *parameter)
{
    const LANES_REQUEST *request = parameter;

    ExInitializeNPagedLookasideList(object, NULL, NULL, 0, request->Bytes, request->Tag, 0);
    return STATUS_SUCCESS;
}

NOIPA void LanesTearDownList(void *object)
{
    ExDeleteNPagedLookasideList(object);
}

NOIPA LANES_TYPE *LanesRegister(const LANES_FUNCTIONS *functions)
{
    LANES_TYPE *type = &LanesTypes[LanesTypeCount++ % MAX_TYPES];

    type->Objects = 0;
    type->Functions = *functions;
    return type;
}

NOIPA NTSTATUS LanesCreate(LANES_TYPE *type, void *object, void *parameter)
{
    NTSTATUS status = STATUS_SUCCESS;

    if (type->Functions.SetUp != NULL) {
        status = type->Functions.SetUp(object, parameter);
    }
    if (NT_SUCCESS(status)) {
        type->Objects++;
    }
    return status;
}

NOIPA NTSTATUS LanesCreateList(void *list, SIZE_T bytes, ULONG tag)
{
    LANES_REQUEST request;
    NTSTATUS status;

    request.Bytes = bytes;
    request.Tag = tag;
    status = LanesCreate(LanesListType, list, &request);
    return NT_SUCCESS(status) ? status : STATUS_INSUFFICIENT_RESOURCES;
}

static NOINLINE NTSTATUS LanesSubmit(SIZE_T bytes)
{
    LANES_REQUEST request;

    request.Bytes = bytes;
    request.Tag = 'rPtS';
    return LanesAllocate(&request) != NULL ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES;
}

static NOINLINE NTSTATUS LanesStart(void)
{
    LANES_FUNCTIONS functions;

    functions.SetUp = LanesSetUpList;
    functions.TearDown = LanesTearDownList;
    LanesListType = LanesRegister(&functions);
    return LanesCreateList(&LanesList, 0x80, 'kLbC');
}

static NTSTATUS NTAPI LanesDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    SIZE_T bytes = stack->Parameters.DeviceIoControl.InputBufferLength;

    (void)device;
    switch ((stack->Parameters.DeviceIoControl.IoControlCode - IOCTL_LANES_FIRST) >> 2) {
    case 0:
        return CompleteIrp(irp, LanesSubmit(bytes), 0);
    case 1:
        irp->SystemBuffer = LanesAllocatePool(NonPagedPoolNx, bytes, 'nItR');
        return CompleteIrp(irp, STATUS_SUCCESS, 0);
    case 2:
        return CompleteIrp(irp, LanesStart(), 0);
    default:
        return CompleteIrp(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
}

static PAGED_CODE void NTAPI LanesUnload(DRIVER_OBJECT *driver)
{
    if (LanesListType != NULL) {
        LanesListType->Functions.TearDown(&LanesList);
    }
    IoDeleteDevice(driver->DeviceObject);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Lanes");
    UNICODE_STRING routine;

    (void)registry_path;
    RtlInitUnicodeString(&routine, L"ExAllocatePoolWithTag");
    LanesAllocatePool = (ALLOCATE_POOL *)MmGetSystemRoutineAddress(&routine);
    return CreateControlDevice(driver, &name, LanesDeviceControl, LanesUnload);
}
