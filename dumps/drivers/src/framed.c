/*
 * framed: a driver of the kernel-mode driver framework: memory objects, a lookaside list, and a default tag.
 * Tags FrmM, FrmL and FrmD. Calls reach the framework through its table of functions; on 64-bit Windows
 * control flow guard watches them.
 */
#include "framework.h"
#if !defined(__i386__)
#include "guard.h"
#endif

#define FRAMED_MEMORY_OBJECTS 16

static WDF_FUNCTION **FramedFunctions;
static WDF_DRIVER_GLOBALS *FramedGlobals;
static WDF_BIND_INFO FramedBindInfo = {
    sizeof(WDF_BIND_INFO), L"KmdfLibrary", {1, 15, 7600}, WdfFunctions, &FramedFunctions, NULL,
};
static HANDLE FramedMemory[FRAMED_MEMORY_OBJECTS];
static HANDLE FramedList;
static ULONG FramedAdded;

static NOINLINE NTSTATUS FramedCreateMemory(ULONG number, SIZE_T bytes)
{
    WDF_MEMORY_CREATE *create = (WDF_MEMORY_CREATE *)FramedFunctions[WdfMemoryCreateIndex];
    void *block;
    NTSTATUS status = create(FramedGlobals, NULL, NonPagedPool, 'MmrF', bytes, &FramedMemory[number], &block);

    if (NT_SUCCESS(status)) {
        ClearBytes(block, bytes);
    }
    return status;
}

static NOINLINE NTSTATUS FramedCreateList(void)
{
    WDF_LOOKASIDE_LIST_CREATE *create =
        (WDF_LOOKASIDE_LIST_CREATE *)FramedFunctions[WdfLookasideListCreateIndex];

    return create(FramedGlobals, NULL, 0x140, PagedPool, NULL, 'LmrF', &FramedList);
}

static NTSTATUS NTAPI FramedDeviceAdd(HANDLE driver, void *device_init)
{
    (void)driver;
    (void)device_init;
    FramedAdded++;
    return FramedCreateMemory(FramedAdded % FRAMED_MEMORY_OBJECTS, 0x80 * (SIZE_T)FramedAdded);
}

static PAGED_CODE void NTAPI FramedUnload(HANDLE driver)
{
    (void)driver;
    FramedAdded = 0;
}

static NOINLINE NTSTATUS FramedCreateDriver(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    WDF_DRIVER_CREATE *create = (WDF_DRIVER_CREATE *)FramedFunctions[WdfDriverCreateIndex];
    WDF_DRIVER_CONFIG config;

    config.Size = sizeof(config);
    config.EvtDriverDeviceAdd = (void *)FramedDeviceAdd;
    config.EvtDriverUnload = (void *)FramedUnload;
    config.DriverInitFlags = 0;
    config.DriverPoolTag = 'DmrF';
    return create(FramedGlobals, driver, registry_path, NULL, &config, NULL);
}

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    NTSTATUS status = WdfVersionBind(driver, registry_path, &FramedBindInfo, &FramedGlobals);

    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = FramedCreateDriver(driver, registry_path);
    if (NT_SUCCESS(status)) {
        status = FramedCreateList();
    }
    if (!NT_SUCCESS(status)) {
        WdfVersionUnbind(registry_path, &FramedBindInfo, FramedGlobals);
    }
    return status;
}
