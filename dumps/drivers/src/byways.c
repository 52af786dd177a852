/*
 * byways: ways of a tag that proof has lost before: one call for a dozen tags, a wrapper that frees before it allocates,
 * wrappers three deep, words that are handed to functions which only look at them, constants in local variables.
 */
#include "allocators.h"
#include "device.h"

#define IOCTL_BYWAYS_FIRST CUSTOM_IOCTL(0x8C0)

typedef struct {
    LIST_ENTRY Link;
    ULONG Kind;
} BYWAYS_RECORD;

typedef struct {
    ULONG Name;
    ULONG Bytes;
} BYWAYS_TABLE;

static LIST_ENTRY BywaysRecords = EMPTY_LIST(BywaysRecords);
static BYWAYS_TABLE BywaysTables[] = {{'TDSF', 0x40}, {'TDSX', 0x24}, {'CIPA', 0x80}};

void *BywaysResize(void *block, SIZE_T bytes, ULONG tag);
void *BywaysDeep3(SIZE_T bytes, ULONG tag);
void *BywaysDeep2(ULONG tag, SIZE_T bytes);
void *BywaysDeep1(SIZE_T bytes, ULONG kind, ULONG tag);
const BYWAYS_TABLE *BywaysFind(ULONG name);
ULONG BywaysMix(const ULONG *words, ULONG count);

/* A dozen tags, each loaded on a path of its own, meet at one call. */
static NOINLINE void *BywaysOfMany(ULONG kind, SIZE_T bytes)
{
    ULONG tag;

    switch (kind) {
    case 0:
        tag = LoadOnce('00wS');
        break;
    case 1:
        tag = LoadOnce('10wS');
        break;
    case 2:
        tag = LoadOnce('20wS');
        break;
    case 3:
        tag = LoadOnce('30wS');
        break;
    case 4:
        tag = LoadOnce('40wS');
        break;
    case 5:
        tag = LoadOnce('50wS');
        break;
    case 6:
        tag = LoadOnce('60wS');
        break;
    case 7:
        tag = LoadOnce('70wS');
        break;
    case 8:
        tag = LoadOnce('80wS');
        break;
    case 9:
        tag = LoadOnce('90wS');
        break;
    case 10:
        tag = LoadOnce('01wS');
        break;
    default:
        tag = LoadOnce('11wS');
        break;
    }
    return ExAllocatePoolWithTag(NonPagedPool, bytes, tag);
}

/* As realloc: what was there goes first. */
NOIPA void *BywaysResize(void *block, SIZE_T bytes, ULONG tag)
{
    if (block != NULL) {
        ExFreePoolWithTag(block, tag);
    }
    return bytes != 0 ? ExAllocatePoolWithTag(PagedPool, bytes, tag) : NULL;
}

NOIPA void *BywaysDeep3(SIZE_T bytes, ULONG tag)
{
    void *block = ExAllocatePoolWithTag(NonPagedPoolNx, bytes + 0x20, tag);

    if (block != NULL) {
        ClearBytes(block, bytes);
    }
    return block;
}

NOIPA void *BywaysDeep2(ULONG tag, SIZE_T bytes)
{
    void *block = BywaysDeep3(bytes + 0x10, tag);

    return block != NULL ? block : BywaysDeep3(bytes, tag);
}

NOIPA void *BywaysDeep1(SIZE_T bytes, ULONG kind, ULONG tag)
{
    BYWAYS_RECORD *record = BywaysDeep2(tag, bytes);

    if (record != NULL) {
        record->Kind = kind;
    }
    return record;
}

/* Names of the firmware's tables: four letters, and no tag. */
NOIPA const BYWAYS_TABLE *BywaysFind(ULONG name)
{
    for (ULONG n = 0; n < sizeof(BywaysTables) / sizeof(BywaysTables[0]); n++) {
        if (BywaysTables[n].Name == name) {
            return &BywaysTables[n];
        }
    }
    return NULL;
}

NOIPA ULONG BywaysMix(const ULONG *words, ULONG count)
{
    ULONG mixed = 0;

    while (count--) {
        mixed = (mixed << 7 | mixed >> 25) ^ *words++;
    }
    return mixed;
}

/* Constants of a cipher, put together in the frame. */
static NOINLINE ULONG BywaysCipher(ULONG key)
{
    volatile ULONG state[6];

    state[0] = 'apxe';
    state[1] = '3 dn';
    state[2] = 'yb-2';
    state[3] = 'k et';
    state[4] = key;
    state[5] = key >> 3;
    return BywaysMix((const ULONG *)state, 6);
}

static NOINLINE NTSTATUS BywaysKeep(BYWAYS_RECORD *record)
{
    if (record == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    InsertTailList(&BywaysRecords, &record->Link);
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI BywaysDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    ULONG input_bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    SIZE_T bytes = sizeof(BYWAYS_RECORD) + input_bytes;
    const BYWAYS_TABLE *table;

    (void)device;
    switch ((stack->Parameters.DeviceIoControl.IoControlCode - IOCTL_BYWAYS_FIRST) >> 2) {
    case 0:
        return CompleteIrp(irp, BywaysKeep(BywaysOfMany(input_bytes, bytes)), 0);
    case 1:
        return CompleteIrp(irp, BywaysKeep(BywaysResize(irp->SystemBuffer, bytes, '1clR')), 0);
    case 2:
        return CompleteIrp(irp, BywaysKeep(BywaysDeep1(bytes, 2, '1peD')), 0);
    case 3:
        table = BywaysFind('TREB');
        return CompleteIrp(irp, STATUS_SUCCESS, table != NULL ? table->Bytes : 0);
    case 4:
        return CompleteIrp(irp, STATUS_SUCCESS, BywaysCipher(input_bytes));
    default:
        return CompleteIrp(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
}

static PAGED_CODE void NTAPI BywaysUnload(DRIVER_OBJECT *driver)
{
    IoDeleteDevice(driver->DeviceObject);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Byways");

    (void)registry_path;
    return CreateControlDevice(driver, &name, BywaysDeviceControl, BywaysUnload);
}
