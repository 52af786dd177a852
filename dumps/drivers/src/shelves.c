/*
 * shelves: tags in tables that are members of larger structures; methods by a table beside the object; an allocator that
 * is looked up by name and may be replaced by another one later.
 */
#include "allocators.h"
#include "device.h"

#define IOCTL_SHELVES_FIRST CUSTOM_IOCTL(0x920)
#define SHELVES_BLOCKS 16
#define SHELVES_ROWS 4

typedef void *NTAPI SHELVES_ALLOCATE(POOL_TYPE type, SIZE_T bytes, ULONG tag);

typedef struct {
    ULONG Bytes;
    ULONG Tag;
} SHELVES_ROW;

/* The tables have neighbours: code reaches an entry through the structure. */
typedef struct {
    ULONG Version;
    ULONG Rows;
    void *Lock;
    SHELVES_ROW Row[SHELVES_ROWS];
    ULONG Hits;
} SHELVES_CABINET;

typedef struct {
    ULONG Version;
    ULONG Tag[SHELVES_ROWS];
    ULONG Hits;
} SHELVES_RACK;

typedef struct {
    SIZE_T Spare;
    ULONG Tag;
} SHELVES_BOX;

typedef struct {
    void (*Drop)(SHELVES_BOX *box);
    SIZE_T Size;
    SIZE_T Alignment;
    void *(*Take)(const SHELVES_BOX *box, SIZE_T bytes);
} SHELVES_METHODS;

extern SHELVES_CABINET ShelvesCabinet;
extern SHELVES_RACK ShelvesRack;
SHELVES_CABINET ShelvesCabinet = {3, SHELVES_ROWS, 0, {{0x40, 'ArtS'}, {0x80, 'BrtS'}, {0x100, 'CrtS'}, {0x200, 'DrtS'}}, 0};
SHELVES_RACK ShelvesRack = {7, {'AgtS', 'BgtS', 'CgtS', 'DgtS'}, 1};

/* Read at run time: somebody else may write it. */
__declspec(dllexport) SHELVES_ALLOCATE *ShelvesAllocate;

static void *ShelvesBlocks[SHELVES_BLOCKS];

void *ShelvesOfCabinet(ULONG number);
void *ShelvesOfRack(ULONG number, SIZE_T bytes);
void *ShelvesReplaceable(SIZE_T bytes);
void ShelvesReplace(SHELVES_ALLOCATE *allocate);
void *ShelvesThrough(const SHELVES_BOX *box, const SHELVES_METHODS *methods, SIZE_T bytes);
void *ShelvesOfMethod(SIZE_T bytes);
void *ShelvesTake(const SHELVES_BOX *box, SIZE_T bytes);
void ShelvesDrop(SHELVES_BOX *box);

static const SHELVES_METHODS ShelvesBoxMethods = {ShelvesDrop, sizeof(SHELVES_BOX), sizeof(void *), ShelvesTake};

NOIPA void *ShelvesOfCabinet(ULONG number)
{
    ShelvesCabinet.Hits++;
    if (number >= ShelvesCabinet.Rows) {
        return NULL;
    }
    return ExAllocatePoolWithTag(NonPagedPoolNx, ShelvesCabinet.Row[number].Bytes, ShelvesCabinet.Row[number].Tag);
}

NOIPA void *ShelvesOfRack(ULONG number, SIZE_T bytes)
{
    ShelvesRack.Hits++;
    return ExAllocatePoolWithTag(NonPagedPoolNx, bytes, ShelvesRack.Tag[number % SHELVES_ROWS]);
}

NOIPA void *ShelvesReplaceable(SIZE_T bytes)
{
    return ShelvesAllocate(PagedPool, bytes, 'RrtP');
}

NOIPA void ShelvesReplace(SHELVES_ALLOCATE *allocate)
{
    if (allocate != NULL) {
        ShelvesAllocate = allocate;
    }
}

NOIPA void ShelvesDrop(SHELVES_BOX *box)
{
    box->Spare = 0;
}

NOIPA void *ShelvesTake(const SHELVES_BOX *box, SIZE_T bytes)
{
    return ExAllocatePoolWithTag(PagedPool, bytes + box->Spare, box->Tag);
}

NOIPA void *ShelvesThrough(const SHELVES_BOX *box, const SHELVES_METHODS *methods, SIZE_T bytes)
{
    return methods->Take(box, bytes);
}

NOIPA void *ShelvesOfMethod(SIZE_T bytes)
{
    SHELVES_BOX box = {bytes / 2, 'MnyD'};

    return ShelvesThrough(&box, &ShelvesBoxMethods, bytes);
}

static NTSTATUS NTAPI ShelvesControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    ULONG bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    void *block = NULL;

    (void)device;
    switch ((stack->Parameters.DeviceIoControl.IoControlCode - IOCTL_SHELVES_FIRST) >> 2) {
    case 0:
        block = ShelvesOfCabinet(bytes);
        break;
    case 1:
        block = ShelvesOfRack(bytes, bytes);
        break;
    case 2:
        block = ShelvesReplaceable(bytes);
        break;
    case 3:
        block = ShelvesOfMethod(bytes);
        break;
    case 4:
        ShelvesReplace((SHELVES_ALLOCATE *)stack->Parameters.DeviceIoControl.Type3InputBuffer);
        return CompleteIrp(irp, STATUS_SUCCESS, 0);
    default:
        return CompleteIrp(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
    ShelvesBlocks[bytes % SHELVES_BLOCKS] = block;
    return CompleteIrp(irp, block != NULL ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES, 0);
}

static PAGED_CODE void NTAPI ShelvesUnload(DRIVER_OBJECT *driver)
{
    IoDeleteDevice(driver->DeviceObject);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Shelves");
    UNICODE_STRING routine = COUNTED_STRING(L"ExAllocatePoolWithTag");

    (void)registry_path;
    ShelvesAllocate = (SHELVES_ALLOCATE *)MmGetSystemRoutineAddress(&routine);
    return CreateControlDevice(driver, &name, ShelvesControl, ShelvesUnload);
}
