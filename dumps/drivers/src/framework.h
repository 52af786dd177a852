/* The part of the kernel-mode driver framework (KMDF) that a driver compiles in: calls go through a table. */
#pragma once
#include "allocators.h"

typedef struct {
    ULONG Major;
    ULONG Minor;
    ULONG Build;
} WDF_VERSION;

typedef void NTAPI WDF_FUNCTION(void);
typedef struct WDF_DRIVER_GLOBALS WDF_DRIVER_GLOBALS;

typedef struct {
    ULONG Size;
    const WCHAR *Component;
    WDF_VERSION Version;
    ULONG FunctionCount;
    WDF_FUNCTION ***FunctionTable;
    void *Module;
} WDF_BIND_INFO;

typedef struct {
    ULONG Size;
    void *EvtDriverDeviceAdd;
    void *EvtDriverUnload;
    ULONG DriverInitFlags;
    ULONG DriverPoolTag;
} WDF_DRIVER_CONFIG;

#if defined(__i386__)
_Static_assert(__builtin_offsetof(WDF_BIND_INFO, FunctionTable) == 0x18, "WDF_BIND_INFO of x86");
_Static_assert(__builtin_offsetof(WDF_DRIVER_CONFIG, DriverPoolTag) == 0x10, "WDF_DRIVER_CONFIG of x86");
#else
_Static_assert(__builtin_offsetof(WDF_BIND_INFO, FunctionTable) == 0x20, "WDF_BIND_INFO of 64-bit Windows");
_Static_assert(__builtin_offsetof(WDF_DRIVER_CONFIG, DriverPoolTag) == 0x1C, "WDF_DRIVER_CONFIG of 64-bit Windows");
#endif

/* Places in the table of framework 1.15, the same in all versions 1.x. */
enum { WdfDriverCreateIndex = 116, WdfMemoryCreateIndex = 192, WdfLookasideListCreateIndex = 198, WdfFunctions = 444 };

typedef NTSTATUS NTAPI WDF_DRIVER_CREATE(WDF_DRIVER_GLOBALS *globals, DRIVER_OBJECT *driver,
                                         const UNICODE_STRING *registry_path, const void *attributes,
                                         const WDF_DRIVER_CONFIG *config, HANDLE *result);
typedef NTSTATUS NTAPI WDF_MEMORY_CREATE(WDF_DRIVER_GLOBALS *globals, const void *attributes, POOL_TYPE type, ULONG tag,
                                         SIZE_T bytes, HANDLE *memory, void **block);
typedef NTSTATUS NTAPI WDF_LOOKASIDE_LIST_CREATE(WDF_DRIVER_GLOBALS *globals, const void *attributes, SIZE_T bytes,
                                                 POOL_TYPE type, const void *memory_attributes, ULONG tag,
                                                 HANDLE *list);

IMPORT NTSTATUS NTAPI WdfVersionBind(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path, WDF_BIND_INFO *info,
                                     WDF_DRIVER_GLOBALS **globals);
IMPORT NTSTATUS NTAPI WdfVersionUnbind(UNICODE_STRING *registry_path, WDF_BIND_INFO *info,
                                       WDF_DRIVER_GLOBALS *globals);
