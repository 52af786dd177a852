/*
 * depots: tags that are put somewhere before a block is allocated with them: into a variable when the driver starts, into
 * an object by its constructor, into tables; and functions that are called through pointers which the driver sets itself.
 */
#include "allocators.h"
#include "device.h"

#define IOCTL_DEPOTS_FIRST CUSTOM_IOCTL(0x900)
#define DEPOTS_BLOCKS 16
#define TABLE_ENTRIES 4

typedef void *DEPOTS_ALLOCATE(SIZE_T bytes, ULONG tag);

typedef struct {
    ULONG Objects;
    POOL_TYPE Type;
    ULONG Tag;
    SIZE_T Largest;
} DEPOTS_POOL;

typedef struct {
    DEPOTS_ALLOCATE *Allocate;
    void (*Free)(void *block);
} DEPOTS_FUNCTIONS;

/* Some linkers choose registers of their own for functions of which they know every call. */
#if defined(__i386__)
#define OWN_CONVENTION __attribute__((regparm(3)))
#else
#define OWN_CONVENTION
#endif

/* Not static: what the optimiser sees written once it puts where it is read. */
extern DEPOTS_POOL DepotsSteadyPool, DepotsMadePool;
extern ULONG DepotsStartTag, DepotsSetTag;
extern DEPOTS_ALLOCATE *DepotsAllocateBlock;
extern const DEPOTS_FUNCTIONS *DepotsFunctions;
DEPOTS_POOL DepotsSteadyPool = {0, NonPagedPoolNx, 'dtSO', 0x1000}, DepotsMadePool;
ULONG DepotsStartTag, DepotsSetTag;
DEPOTS_ALLOCATE *DepotsAllocateBlock;
const DEPOTS_FUNCTIONS *DepotsFunctions;

static const ULONG DepotsClassTags[TABLE_ENTRIES] = {'AtbT', 'BtbT', 'CtbT', 'DtbT'};

static void *DepotsBlocks[DEPOTS_BLOCKS];

void *DepotsAllocate(SIZE_T bytes, ULONG tag);
void DepotsFree(void *block);
void DepotsSetDefault(ULONG tag);
void DepotsMakePool(DEPOTS_POOL *pool, POOL_TYPE type, ULONG tag);
void *DepotsTake(DEPOTS_POOL *pool, SIZE_T bytes);
NTSTATUS DepotsAllocateTo(void **block, SIZE_T bytes, ULONG tag);
OWN_CONVENTION void *DepotsAllocateOwn(ULONG tag, SIZE_T bytes, POOL_TYPE type);
void *DepotsOfClass(ULONG number, SIZE_T bytes);
void *DepotsOfFrame(ULONG number, SIZE_T bytes);

static DEPOTS_FUNCTIONS DepotsTable = {DepotsAllocate, DepotsFree};

NOIPA void *DepotsAllocate(SIZE_T bytes, ULONG tag)
{
    ULONG *block = ExAllocatePoolWithTag(NonPagedPoolNx, bytes + sizeof(ULONG), tag);

    if (block != NULL) {
        *block = tag;
    }
    return block;
}

NOIPA void DepotsFree(void *block)
{
    ExFreePoolWithTag(block, 0);
}

NOIPA void DepotsSetDefault(ULONG tag)
{
    DepotsSetTag = tag;
}

NOIPA void DepotsMakePool(DEPOTS_POOL *pool, POOL_TYPE type, ULONG tag)
{
    pool->Objects = 0;
    pool->Type = type;
    pool->Tag = tag;
    pool->Largest = 0;
}

NOIPA void *DepotsTake(DEPOTS_POOL *pool, SIZE_T bytes)
{
    if (bytes > pool->Largest) {
        pool->Largest = bytes;
    }
    pool->Objects++;
    return ExAllocatePoolWithTag(pool->Type, bytes, pool->Tag);
}

NOIPA NTSTATUS DepotsAllocateTo(void **block, SIZE_T bytes, ULONG tag)
{
    *block = ExAllocatePoolWithTag(PagedPool, bytes, tag);
    return *block != NULL ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES;
}

NOIPA OWN_CONVENTION void *DepotsAllocateOwn(ULONG tag, SIZE_T bytes, POOL_TYPE type)
{
    return ExAllocatePoolWithTag(type, bytes, tag);
}

NOIPA void *DepotsOfClass(ULONG number, SIZE_T bytes)
{
    return ExAllocatePoolWithTag(NonPagedPoolNx, bytes, DepotsClassTags[number]);
}

/* The same in the frame. */
NOIPA void *DepotsOfFrame(ULONG number, SIZE_T bytes)
{
    volatile ULONG tags[TABLE_ENTRIES];

    tags[0] = 'AbtF';
    tags[1] = 'BbtF';
    tags[2] = 'CbtF';
    tags[3] = 'DbtF';
    return ExAllocatePoolWithTag(NonPagedPoolNx, bytes, tags[number % TABLE_ENTRIES]);
}

static NOINLINE void *DepotsFromVariable(SIZE_T bytes)
{
    return ExAllocatePoolWithTag(PagedPool, bytes, DepotsStartTag);
}

static NOINLINE void *DepotsFromSetting(SIZE_T bytes)
{
    return ExAllocatePoolWithTag(PagedPool, bytes, DepotsSetTag);
}

static NOINLINE void *DepotsFromSteadyPool(SIZE_T bytes)
{
    return DepotsTake(&DepotsSteadyPool, bytes);
}

static NOINLINE void *DepotsFromMadePool(SIZE_T bytes)
{
    return DepotsTake(&DepotsMadePool, bytes);
}

static NOINLINE void *DepotsThroughPointer(SIZE_T bytes)
{
    return DepotsAllocateBlock != NULL ? DepotsAllocateBlock(bytes, 'VrtP') : NULL;
}

static NOINLINE void *DepotsThroughTable(SIZE_T bytes)
{
    return DepotsFunctions != NULL ? DepotsFunctions->Allocate(bytes, 'TrtP') : NULL;
}

static NOINLINE void *DepotsTo(SIZE_T bytes)
{
    void *block;

    return NT_SUCCESS(DepotsAllocateTo(&block, bytes, 'PtuO')) ? block : NULL;
}

static NOINLINE void *DepotsOwn(SIZE_T bytes)
{
    return DepotsAllocateOwn('CnwO', bytes, NonPagedPoolNx);
}

static NOINLINE void *DepotsOfObject(void *memory, SIZE_T bytes)
{
    DepotsMakePool(memory, PagedPool, 'knUO');
    return DepotsTake(memory, bytes);
}

static NOINLINE void DepotsStart(void)
{
    DepotsStartTag = 'rVtS';
    DepotsSetDefault('fStS');
    DepotsMakePool(&DepotsMadePool, NonPagedPoolNx, 'dMbO');
    DepotsAllocateBlock = DepotsAllocate;
    DepotsFunctions = &DepotsTable;
}

static void *DepotsServe(ULONG kind, SIZE_T bytes, IRP *irp)
{
    switch (kind) {
    case 0:
        return DepotsFromVariable(bytes);
    case 1:
        return DepotsFromSetting(bytes);
    case 2:
        return DepotsFromSteadyPool(bytes);
    case 3:
        return DepotsFromMadePool(bytes);
    case 4:
        return DepotsThroughPointer(bytes);
    case 5:
        return DepotsThroughTable(bytes);
    case 6:
        return DepotsTo(bytes);
    case 7:
        return DepotsOwn(bytes);
    case 8:
        return DepotsOfObject(irp->SystemBuffer, bytes);
    case 9:
        return DepotsOfClass((ULONG)bytes % TABLE_ENTRIES, bytes);
    default:
        return DepotsOfFrame((ULONG)bytes, bytes);
    }
}

static NTSTATUS NTAPI DepotsDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    ULONG kind = (stack->Parameters.DeviceIoControl.IoControlCode - IOCTL_DEPOTS_FIRST) >> 2;
    SIZE_T bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    void *block;

    (void)device;
    block = DepotsServe(kind, bytes, irp);
    if (block == NULL) {
        return CompleteIrp(irp, STATUS_INSUFFICIENT_RESOURCES, 0);
    }
    DepotsBlocks[kind % DEPOTS_BLOCKS] = block;
    return CompleteIrp(irp, STATUS_SUCCESS, bytes);
}

static PAGED_CODE void NTAPI DepotsUnload(DRIVER_OBJECT *driver)
{
    if (DepotsFunctions != NULL) {
        DepotsFunctions->Free(DepotsBlocks[0]);
    }
    IoDeleteDevice(driver->DeviceObject);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Depots");

    (void)registry_path;
    DepotsStart();
    return CreateControlDevice(driver, &name, DepotsDeviceControl, DepotsUnload);
}
