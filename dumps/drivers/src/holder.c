/*
 * holder: references the primary token of each new process and never gives the reference back.
 * Tag Hldr for its own small records; the memory that really grows is that of the tokens (Toke).
 */
#include "kernel.h"

#define HOLDER_TAG 'rdlH'

typedef struct {
    LIST_ENTRY Link;
    HANDLE ProcessId;
    ACCESS_TOKEN *Token;
} HOLDER_RECORD;

static LIST_ENTRY HolderRecords = EMPTY_LIST(HolderRecords);
static ERESOURCE HolderLock;

static NOINLINE void HolderHoldToken(HANDLE process_id)
{
    HOLDER_RECORD *record;
    EPROCESS *process;

    if (!NT_SUCCESS(PsLookupProcessByProcessId(process_id, &process))) {
        return;
    }
    record = ExAllocatePoolWithTag(PagedPool, sizeof(HOLDER_RECORD), HOLDER_TAG);
    if (record != NULL) {
        record->ProcessId = process_id;
        record->Token = PsReferencePrimaryToken(process);
        ExEnterCriticalRegionAndAcquireResourceExclusive(&HolderLock);
        InsertTailList(&HolderRecords, &record->Link);
        ExReleaseResourceAndLeaveCriticalRegion(&HolderLock);
    }
    ObfDereferenceObject(process);
}

static void NTAPI HolderProcessChanged(HANDLE parent_id, HANDLE process_id, BOOLEAN created)
{
    (void)parent_id;
    if (created) {
        HolderHoldToken(process_id); /* the end of a process is not listened for: this is the leak */
    }
}

static PAGED_CODE void NTAPI HolderUnload(DRIVER_OBJECT *driver)
{
    (void)driver;
    PsSetCreateProcessNotifyRoutine(HolderProcessChanged, TRUE);
    while (HolderRecords.Flink != &HolderRecords) {
        HOLDER_RECORD *record = CONTAINING_RECORD(RemoveHeadList(&HolderRecords), HOLDER_RECORD, Link);
        PsDereferencePrimaryToken(record->Token);
        ExFreePoolWithTag(record, HOLDER_TAG);
    }
    ExDeleteResourceLite(&HolderLock);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    (void)registry_path;
    ExInitializeResourceLite(&HolderLock);
    driver->DriverUnload = HolderUnload;
    return PsSetCreateProcessNotifyRoutine(HolderProcessChanged, FALSE);
}
