/* The allocators of NDIS, of the storage and video port drivers, and of the filter manager. */
#pragma once
#include "allocators.h"
#include "filter.h"

typedef struct {
    UCHAR Type;
    UCHAR Revision;
    USHORT Size;
} NDIS_OBJECT_HEADER;

#define NDIS_OBJECT_TYPE_DEFAULT 0x80
#define NDIS_DEFAULT_PROTOCOL_ID 0

typedef struct {
    NDIS_OBJECT_HEADER Header;
    UCHAR ProtocolId;
    BOOLEAN fAllocateNetBuffer;
    USHORT ContextSize;
    ULONG PoolTag;
    ULONG DataSize;
} NET_BUFFER_LIST_POOL_PARAMETERS;

typedef struct {
    NDIS_OBJECT_HEADER Header;
    ULONG PoolTag;
    ULONG DataSize;
} NET_BUFFER_POOL_PARAMETERS;

_Static_assert(__builtin_offsetof(NET_BUFFER_LIST_POOL_PARAMETERS, PoolTag) == 8, "NET_BUFFER_LIST_POOL_PARAMETERS");
_Static_assert(__builtin_offsetof(NET_BUFFER_POOL_PARAMETERS, PoolTag) == 4, "NET_BUFFER_POOL_PARAMETERS");

IMPORT NTSTATUS NTAPI NdisAllocateMemoryWithTag(void **block, ULONG bytes, ULONG tag);
IMPORT void *NTAPI NdisAllocateMemoryWithTagPriority(HANDLE adapter, ULONG bytes, ULONG tag, EX_POOL_PRIORITY priority);
IMPORT HANDLE NTAPI NdisAllocateNetBufferListPool(HANDLE adapter, const NET_BUFFER_LIST_POOL_PARAMETERS *parameters);
IMPORT HANDLE NTAPI NdisAllocateNetBufferPool(HANDLE adapter, const NET_BUFFER_POOL_PARAMETERS *parameters);

typedef enum { ExtFunctionAllocatePool = 0, ExtFunctionFreePool = 1 } STORPORT_FUNCTION_CODE;

IMPORT ULONG StorPortExtendedFunction(STORPORT_FUNCTION_CODE function, void *extension, ...);

typedef enum { VpNonPagedPool = 0, VpPagedPool = 1 } VP_POOL_TYPE;

IMPORT void *NTAPI VideoPortAllocatePool(void *extension, VP_POOL_TYPE type, SIZE_T bytes, ULONG tag);

#define FLT_STREAM_CONTEXT 0x0008

IMPORT void *NTAPI FltAllocatePoolAlignedWithTag(FLT_INSTANCE *instance, POOL_TYPE pool, SIZE_T bytes, ULONG tag);
