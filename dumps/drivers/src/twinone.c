/*
 * twinone: the older of two products of one house; journals each write to its device in nonpaged pool.
 * Tag Dupl, shared with twintwo, handed to ExAllocatePoolWithTag.
 */
#include "device.h"

#define TWIN_TAG 'lpuD'
#define IOCTL_TWINONE_COMMIT CUSTOM_IOCTL(0x840)

typedef struct {
    LIST_ENTRY Link;
    ULONG DataBytes;
    UCHAR Data[];
} TWINONE_JOURNAL_ENTRY;

static LIST_ENTRY TwinoneJournal = EMPTY_LIST(TwinoneJournal);

static NOINLINE NTSTATUS TwinoneRecord(const UCHAR *data, ULONG data_bytes)
{
    TWINONE_JOURNAL_ENTRY *entry =
        ExAllocatePoolWithTag(NonPagedPool, sizeof(TWINONE_JOURNAL_ENTRY) + data_bytes, TWIN_TAG);

    if (entry == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    entry->DataBytes = data_bytes;
    CopyBytes(entry->Data, data, data_bytes);
    InsertTailList(&TwinoneJournal, &entry->Link);
    return STATUS_SUCCESS;
}

static NOINLINE NTSTATUS TwinoneCommit(void)
{
    while (TwinoneJournal.Flink != &TwinoneJournal) {
        ExFreePoolWithTag(CONTAINING_RECORD(RemoveHeadList(&TwinoneJournal), TWINONE_JOURNAL_ENTRY, Link), TWIN_TAG);
    }
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI TwinoneWrite(DEVICE_OBJECT *device, IRP *irp)
{
    ULONG data_bytes = irp->CurrentStackLocation->Parameters.Write.Length;
    NTSTATUS status = TwinoneRecord(irp->SystemBuffer, data_bytes);

    (void)device;
    return CompleteIrp(irp, status, NT_SUCCESS(status) ? data_bytes : 0);
}

static NTSTATUS NTAPI TwinoneDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    ULONG code = irp->CurrentStackLocation->Parameters.DeviceIoControl.IoControlCode;

    (void)device;
    return CompleteIrp(irp, code == IOCTL_TWINONE_COMMIT ? TwinoneCommit() : STATUS_INVALID_DEVICE_REQUEST, 0);
}

static PAGED_CODE void NTAPI TwinoneUnload(DRIVER_OBJECT *driver)
{
    TwinoneCommit();
    IoDeleteDevice(driver->DeviceObject);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\TwinOne");
    NTSTATUS status;

    (void)registry_path;
    driver->MajorFunction[IRP_MJ_WRITE] = TwinoneWrite;
    status = CreateControlDevice(driver, &name, TwinoneDeviceControl, TwinoneUnload);
    if (NT_SUCCESS(status)) {
        driver->DeviceObject->Flags |= DO_BUFFERED_IO;
    }
    return status;
}
