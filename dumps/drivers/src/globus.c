/*
 * globus: keeps a map tile for each coordinate that a program has asked for.
 * Tag Glob, read at each allocation from a writable global; no instruction holds it.
 */
#include "device.h"

#define GLOBUS_TILE_BYTES 0x400
#define IOCTL_GLOBUS_LOOKUP CUSTOM_IOCTL(0x830)
#define IOCTL_GLOBUS_FLUSH CUSTOM_IOCTL(0x831)

typedef struct {
    LIST_ENTRY Link;
    ULONG Latitude;
    ULONG Longitude;
    UCHAR Pixels[GLOBUS_TILE_BYTES];
} GLOBUS_TILE;

/* External linkage: the compiler has to believe that somebody else may write the tag. */
extern ULONG GlobusPoolTag;
ULONG GlobusPoolTag = 'bolG';

static LIST_ENTRY GlobusTiles = EMPTY_LIST(GlobusTiles);

static NOINLINE GLOBUS_TILE *GlobusFindTile(ULONG latitude, ULONG longitude)
{
    for (LIST_ENTRY *link = GlobusTiles.Flink; link != &GlobusTiles; link = link->Flink) {
        GLOBUS_TILE *tile = CONTAINING_RECORD(link, GLOBUS_TILE, Link);
        if (tile->Latitude == latitude && tile->Longitude == longitude) {
            return tile;
        }
    }
    return NULL;
}

static NOINLINE NTSTATUS GlobusLookup(const ULONG *coordinates)
{
    GLOBUS_TILE *tile = GlobusFindTile(coordinates[0], coordinates[1]);

    if (tile != NULL) {
        return STATUS_SUCCESS;
    }
    tile = ExAllocatePoolWithTag(PagedPool, sizeof(GLOBUS_TILE), GlobusPoolTag);
    if (tile == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    tile->Latitude = coordinates[0];
    tile->Longitude = coordinates[1];
    InsertTailList(&GlobusTiles, &tile->Link);
    return STATUS_SUCCESS;
}

static NOINLINE NTSTATUS GlobusFlush(void)
{
    while (GlobusTiles.Flink != &GlobusTiles) {
        ExFreePoolWithTag(CONTAINING_RECORD(RemoveHeadList(&GlobusTiles), GLOBUS_TILE, Link), GlobusPoolTag);
    }
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI GlobusDeviceControl(DEVICE_OBJECT *device, IRP *irp)
{
    IO_STACK_LOCATION *stack = irp->CurrentStackLocation;
    ULONG code = stack->Parameters.DeviceIoControl.IoControlCode;
    NTSTATUS status = STATUS_INVALID_DEVICE_REQUEST;

    (void)device;
    if (code == IOCTL_GLOBUS_LOOKUP) {
        status = stack->Parameters.DeviceIoControl.InputBufferLength >= 2 * sizeof(ULONG)
                     ? GlobusLookup(irp->SystemBuffer)
                     : STATUS_BUFFER_TOO_SMALL;
    } else if (code == IOCTL_GLOBUS_FLUSH) {
        status = GlobusFlush();
    }
    return CompleteIrp(irp, status, 0);
}

static PAGED_CODE void NTAPI GlobusUnload(DRIVER_OBJECT *driver)
{
    GlobusFlush();
    IoDeleteDevice(driver->DeviceObject);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    UNICODE_STRING name = COUNTED_STRING(L"\\Device\\Globus");

    (void)registry_path;
    return CreateControlDevice(driver, &name, GlobusDeviceControl, GlobusUnload);
}
