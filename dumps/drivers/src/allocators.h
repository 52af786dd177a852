/* The kernel's other allocators, and what the drivers that show every way to a tag need besides. */
#pragma once
#include "kernel.h"
#include "lookaside.h"

typedef enum { NormalPoolPriority = 16 } EX_POOL_PRIORITY;
typedef NPAGED_LOOKASIDE_LIST PAGED_LOOKASIDE_LIST;

IMPORT void *NTAPI ExAllocatePoolWithQuotaTag(POOL_TYPE type, SIZE_T bytes, ULONG tag);
IMPORT void *NTAPI ExAllocatePoolWithTagPriority(POOL_TYPE type, SIZE_T bytes, ULONG tag, EX_POOL_PRIORITY priority);
IMPORT void *NTAPI FsRtlAllocatePoolWithTag(POOL_TYPE type, SIZE_T bytes, ULONG tag);
IMPORT void NTAPI ExInitializePagedLookasideList(PAGED_LOOKASIDE_LIST *list, LOOKASIDE_ALLOCATE *allocate,
                                                 LOOKASIDE_FREE *free, ULONG flags, SIZE_T bytes, ULONG tag,
                                                 USHORT depth);
IMPORT void NTAPI ExDeletePagedLookasideList(PAGED_LOOKASIDE_LIST *list);
IMPORT void *NTAPI MmGetSystemRoutineAddress(UNICODE_STRING *name);
IMPORT ULONG DbgPrint(const char *format, ...);

/* Of such a function the optimiser learns nothing from its callers, nor they from it. */
#if defined(__clang__)
#define NOIPA __attribute__((noinline))
#else
#define NOIPA __attribute__((noipa))
#endif

/* A constant that has to be loaded into a register once, as compilers do by themselves where that is shorter. */
static inline ULONG LoadOnce(ULONG value)
{
    __asm__("" : "+r"(value));
    return value;
}

static inline void ClearBytes(volatile UCHAR *to, SIZE_T bytes)
{
    while (bytes--) {
        *to++ = 0;
    }
}
