/* The control device that most of the sample drivers offer: anybody may open it; the work arrives as requests. */
#pragma once
#include "kernel.h"

static inline NTSTATUS CompleteIrp(IRP *irp, NTSTATUS status, ULONG_PTR information)
{
    irp->IoStatus.Status = status;
    irp->IoStatus.Information = information;
    IofCompleteRequest(irp, IO_NO_INCREMENT);
    return status;
}

static PAGED_CODE NTSTATUS NTAPI OpenOrCloseDevice(DEVICE_OBJECT *device, IRP *irp)
{
    (void)device;
    return CompleteIrp(irp, STATUS_SUCCESS, 0);
}

static INIT_CODE NTSTATUS CreateControlDevice(DRIVER_OBJECT *driver, UNICODE_STRING *name, DRIVER_DISPATCH *control,
                                              DRIVER_UNLOAD *unload)
{
    DEVICE_OBJECT *device;

    driver->MajorFunction[IRP_MJ_CREATE] = OpenOrCloseDevice;
    driver->MajorFunction[IRP_MJ_CLOSE] = OpenOrCloseDevice;
    driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = control;
    driver->DriverUnload = unload;
    return IoCreateDevice(driver, 0, name, FILE_DEVICE_UNKNOWN, FILE_DEVICE_SECURE_OPEN, FALSE, &device);
}
