/*
 * idioms: one record for each request, allocated in a way of its own: every way in which a tag reaches the allocator.
 * Each way has its own tag. Records are kept until the driver is unloaded.
 */
#include "allocators.h"
#include "device.h"

#define IOCTL_IDIOMS_FIRST CUSTOM_IOCTL(0x840)
#define IDIOMS_PROTECTED 0x80000000u

typedef struct {
    LIST_ENTRY Link;
    ULONG Kind;
    ULONG Bytes;
} IDIOMS_RECORD;

typedef void *NTAPI ALLOCATE_POOL2(ULONG64 flags, SIZE_T bytes, ULONG tag);

/* Read at run time: somebody else may write them. */
extern ULONG IdiomsGlobalTag;
ULONG IdiomsGlobalTag = 'lblG';
__declspec(dllexport) ALLOCATE_POOL2 *IdiomsAllocatePool2;

static const struct {
    ULONG Bytes;
    ULONG Tag;
} IdiomsClasses[] = {{0x40, '1baT'}, {0x200, '2baT'}, {0x1000, '3baT'}};

static LIST_ENTRY IdiomsRecords = EMPTY_LIST(IdiomsRecords);
static NPAGED_LOOKASIDE_LIST IdiomsPackets;
static PAGED_LOOKASIDE_LIST IdiomsPages;
static LOOKASIDE_LIST_EX IdiomsDescriptors;

/* External linkage, and nothing that the optimiser may learn from the callers: real wrappers stay functions. */
void *IdiomsAllocate(SIZE_T bytes, ULONG tag);
void *IdiomsAllocateRecord(ULONG tag, ULONG kind, SIZE_T extra_bytes);
void *IdiomsAllocateDebug(POOL_TYPE type, SIZE_T bytes, ULONG line);

static NOINLINE void *IdiomsDirect(SIZE_T bytes)
{
    IDIOMS_RECORD *record = ExAllocatePoolWithTag(NonPagedPool, bytes, 'tcrD');

    if (record != NULL) {
        record->Kind = 0;
    }
    return record;
}

static NOINLINE void *IdiomsPool2(SIZE_T bytes)
{
    IDIOMS_RECORD *record = ExAllocatePool2(POOL_FLAG_NON_PAGED, bytes, '2loP');

    if (record != NULL) {
        record->Kind = 1;
    }
    return record;
}

NOIPA void *IdiomsAllocate(SIZE_T bytes, ULONG tag)
{
    void *block;

    if (bytes == 0) {
        return NULL;
    }
    block = ExAllocatePoolWithTag(NonPagedPoolNx, bytes, tag);
    if (block != NULL) {
        ClearBytes(block, bytes);
    }
    return block;
}

NOIPA void *IdiomsAllocateRecord(ULONG tag, ULONG kind, SIZE_T extra_bytes)
{
    IDIOMS_RECORD *record = IdiomsAllocate(sizeof(IDIOMS_RECORD) + extra_bytes, tag);

    if (record != NULL) {
        record->Kind = kind;
    }
    return record;
}

static NOINLINE void *IdiomsWrapped(SIZE_T bytes)
{
    return IdiomsAllocate(bytes + 0x10, 'parW');
}

static NOINLINE void *IdiomsWrappedTwice(SIZE_T bytes)
{
    return IdiomsAllocateRecord('2prW', 3, bytes);
}

/* The block comes from another driver; this one only returns it. */
static NOINLINE void IdiomsReturn(void **handed)
{
    if (*handed != NULL) {
        ExFreePoolWithTag(*handed, '1erF');
        *handed = NULL;
    }
}

static NOINLINE NTSTATUS IdiomsCreateLists(void)
{
    ExInitializeNPagedLookasideList(&IdiomsPackets, NULL, NULL, 0, 0xC0, 'pNkL', 0);
    ExInitializePagedLookasideList(&IdiomsPages, NULL, NULL, 0, 0x180, 'gPkL', 0);
    return ExInitializeLookasideListEx(&IdiomsDescriptors, NULL, NULL, NonPagedPoolNx, 0, 0x40, 'xEkL', 0);
}

static NOINLINE void *IdiomsSelected(SIZE_T bytes, BOOLEAN is_write)
{
    IDIOMS_RECORD *record = ExAllocatePoolWithTag(NonPagedPool, bytes, is_write ? 'WleS' : 'RleS');

    if (record != NULL) {
        record->Kind = is_write;
    }
    return record;
}

/* One bit apart: the second tag is reckoned out of the first. */
static NOINLINE void *IdiomsReckoned(SIZE_T bytes, BOOLEAN is_write)
{
    IDIOMS_RECORD *record = ExAllocatePoolWithTag(NonPagedPool, bytes, is_write ? '1irA' : '0irA');

    if (record != NULL) {
        record->Kind = 11;
    }
    return record;
}

static NOINLINE void *IdiomsProtected(SIZE_T bytes)
{
    IDIOMS_RECORD *record = ExAllocatePoolWithTag(NonPagedPool, bytes, 'torP' | IDIOMS_PROTECTED);

    if (record != NULL) {
        record->Kind = 5;
    }
    return record;
}

static NOINLINE void *IdiomsFromGlobal(SIZE_T bytes)
{
    IDIOMS_RECORD *record = ExAllocatePoolWithTag(PagedPool, bytes, IdiomsGlobalTag);

    if (record != NULL) {
        record->Kind = 6;
    }
    return record;
}

static NOINLINE void *IdiomsFromTable(ULONG size_class)
{
    IDIOMS_RECORD *record =
        ExAllocatePoolWithTag(NonPagedPool, IdiomsClasses[size_class].Bytes, IdiomsClasses[size_class].Tag);

    if (record != NULL) {
        record->Kind = 7;
    }
    return record;
}

/* One register that every call keeps holds the tag for three calls. */
static NOINLINE void *IdiomsKept(SIZE_T bytes, IDIOMS_RECORD **second)
{
    ULONG tag = LoadOnce('peeK');
    IDIOMS_RECORD *first = ExAllocatePoolWithTag(NonPagedPool, bytes, tag);

    if (first != NULL) {
        *second = ExAllocatePoolWithTag(PagedPool, 2 * bytes, tag);
        if (*second == NULL) {
            ExFreePoolWithTag(first, tag);
            return NULL;
        }
    }
    return first;
}

/* Nothing is left to do after the call: it is a jump. The line is for checked builds. */
NOIPA void *IdiomsAllocateDebug(POOL_TYPE type, SIZE_T bytes, ULONG line)
{
    (void)line;
    return ExAllocatePoolWithTag(type, bytes, 'liaT');
}

static NOINLINE void *IdiomsFetched(SIZE_T bytes)
{
    IDIOMS_RECORD *record;

    if (IdiomsAllocatePool2 == NULL) {
        return NULL;
    }
    record = IdiomsAllocatePool2(POOL_FLAG_NON_PAGED, bytes, 'anyD');
    if (record != NULL) {
        record->Kind = 9;
    }
    return record;
}

#if defined(__x86_64__)
/*
 * The form of import calls that the kernel may rewrite while it loads the driver: a prefix and a long nop make room for
 * a call through a stub, or for a direct one.
 */
static inline void *CallRewritable(POOL_TYPE type, SIZE_T bytes, ULONG tag)
{
    register ULONG_PTR r8 __asm__("r8") = tag;
    ULONG_PTR rcx = type, rdx = bytes;
    void *block;

    __asm__ volatile(".byte 0x48\n\tcallq *__imp_ExAllocatePoolWithTag(%%rip)\n\t.byte 0x0f, 0x1f, 0x44, 0x00, 0x00"
                     : "=a"(block), "+c"(rcx), "+d"(rdx), "+r"(r8)
                     :
                     : "r9", "r10", "r11", "memory");
    return block;
}

static NOINLINE void *IdiomsRewritten(SIZE_T bytes)
{
    IDIOMS_RECORD *record = CallRewritable(NonPagedPool, bytes, 'ptpR');

    if (record == NULL) {
        DbgPrint("idioms: no memory\n");
        return NULL;
    }
    record->Kind = 10;
    return record;
}
#else
#define IdiomsRewritten IdiomsDirect
#endif

static NOINLINE NTSTATUS IdiomsKeep(IDIOMS_RECORD *record, ULONG bytes)
{
    if (record == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    record->Bytes = bytes;
    InsertTailList(&IdiomsRecords, &record->Link);
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI IdiomsDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    ULONG input_bytes = stack->Parameters.DeviceIoControl.InputBufferLength;
    SIZE_T bytes = sizeof(IDIOMS_RECORD) + input_bytes;
    IDIOMS_RECORD *record = NULL, *second = NULL;

    (void)device;
    switch ((stack->Parameters.DeviceIoControl.IoControlCode - IOCTL_IDIOMS_FIRST) >> 2) {
    case 0:
        record = IdiomsDirect(bytes);
        break;
    case 1:
        record = IdiomsPool2(bytes);
        break;
    case 2:
        record = IdiomsWrapped(bytes);
        break;
    case 3:
        record = IdiomsWrappedTwice(input_bytes);
        break;
    case 4:
        record = IdiomsSelected(bytes, irp->RequestorMode != 0);
        break;
    case 5:
        record = IdiomsProtected(bytes);
        break;
    case 6:
        record = IdiomsFromGlobal(bytes);
        break;
    case 7:
        record = IdiomsFromTable(input_bytes % 3);
        break;
    case 8:
        record = IdiomsKept(bytes, &second);
        if (second != NULL) {
            InsertTailList(&IdiomsRecords, &second->Link);
        }
        break;
    case 9:
        record = IdiomsFetched(bytes);
        break;
    case 10:
        record = IdiomsRewritten(bytes);
        break;
    case 11:
        record = IdiomsAllocateDebug(NonPagedPool, bytes, input_bytes);
        break;
    case 12:
        record = AllocateFromNPagedLookasideList(&IdiomsPackets);
        break;
    case 13:
        record = AllocateFromLookasideListEx(&IdiomsDescriptors);
        break;
    case 14:
        record = IdiomsReckoned(bytes, irp->RequestorMode != 0);
        break;
    case 15:
        IdiomsReturn(irp->SystemBuffer);
        return CompleteIrp(irp, STATUS_SUCCESS, 0);
    default:
        return CompleteIrp(irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
    return CompleteIrp(irp, IdiomsKeep(record, input_bytes), 0);
}

static PAGED_CODE void NTAPI IdiomsUnload(DRIVER_OBJECT *driver)
{
    IoDeleteDevice(driver->DeviceObject);
    ExDeleteLookasideListEx(&IdiomsDescriptors);
    ExDeletePagedLookasideList(&IdiomsPages);
    ExDeleteNPagedLookasideList(&IdiomsPackets);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Idioms");
    UNICODE_STRING routine = COUNTED_STRING(L"ExAllocatePool2");
    NTSTATUS status;

    (void)registry_path;
    IdiomsAllocatePool2 = (ALLOCATE_POOL2 *)MmGetSystemRoutineAddress(&routine);
    status = IdiomsCreateLists();
    return NT_SUCCESS(status) ? CreateControlDevice(driver, &name, IdiomsDeviceControl, IdiomsUnload) : status;
}
