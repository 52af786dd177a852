/* Lookaside lists: the layout that drivers compile in, and the inline operations on them. */
#pragma once
#include "kernel.h"

typedef struct SLIST_ENTRY {
    struct SLIST_ENTRY *Next;
} SLIST_ENTRY;

typedef struct {
    ULONG64 Parts[sizeof(void *) / 4]; /* one on x86, two on 64-bit Windows */
} __attribute__((aligned(2 * sizeof(void *)))) SLIST_HEADER;

typedef void *NTAPI LOOKASIDE_ALLOCATE(POOL_TYPE type, SIZE_T bytes, ULONG tag);
typedef void NTAPI LOOKASIDE_FREE(void *block);
typedef struct LOOKASIDE_LIST_EX LOOKASIDE_LIST_EX;
typedef void *NTAPI LOOKASIDE_ALLOCATE_EX(POOL_TYPE type, SIZE_T bytes, ULONG tag, LOOKASIDE_LIST_EX *list);
typedef void NTAPI LOOKASIDE_FREE_EX(void *block, LOOKASIDE_LIST_EX *list);

typedef struct {
    SLIST_HEADER ListHead;
    USHORT Depth;
    USHORT MaximumDepth;
    ULONG TotalAllocates;
    ULONG AllocateMisses;
    ULONG TotalFrees;
    ULONG FreeMisses;
    POOL_TYPE Type;
    ULONG Tag;
    ULONG Size;
    union {
        LOOKASIDE_ALLOCATE *Allocate;
        LOOKASIDE_ALLOCATE_EX *AllocateEx;
    };
    union {
        LOOKASIDE_FREE *Free;
        LOOKASIDE_FREE_EX *FreeEx;
    };
    LIST_ENTRY ListEntry;
    ULONG LastTotalAllocates;
    ULONG LastAllocateMisses;
    ULONG Future[2];
} GENERAL_LOOKASIDE;

#if defined(__i386__)
_Static_assert(__builtin_offsetof(GENERAL_LOOKASIDE, Tag) == 0x20, "GENERAL_LOOKASIDE of x86");
#else
_Static_assert(__builtin_offsetof(GENERAL_LOOKASIDE, Tag) == 0x28, "GENERAL_LOOKASIDE of 64-bit Windows");
#endif

typedef struct {
    GENERAL_LOOKASIDE L;
    ULONG_PTR Lock; /* x86 only; 64-bit Windows keeps padding here */
} __attribute__((aligned(64))) NPAGED_LOOKASIDE_LIST;

struct LOOKASIDE_LIST_EX {
    GENERAL_LOOKASIDE L;
};

IMPORT void NTAPI ExInitializeNPagedLookasideList(NPAGED_LOOKASIDE_LIST *list, LOOKASIDE_ALLOCATE *allocate,
                                                  LOOKASIDE_FREE *free, ULONG flags, SIZE_T bytes, ULONG tag,
                                                  USHORT depth);
IMPORT void NTAPI ExDeleteNPagedLookasideList(NPAGED_LOOKASIDE_LIST *list);
IMPORT NTSTATUS NTAPI ExInitializeLookasideListEx(LOOKASIDE_LIST_EX *list, LOOKASIDE_ALLOCATE_EX *allocate,
                                                  LOOKASIDE_FREE_EX *free, POOL_TYPE type, ULONG flags, SIZE_T bytes,
                                                  ULONG tag, USHORT depth);
IMPORT void NTAPI ExDeleteLookasideListEx(LOOKASIDE_LIST_EX *list);

#if defined(__i386__)
IMPORT SLIST_ENTRY *FASTCALL InterlockedPopEntrySList(SLIST_HEADER *head);
IMPORT SLIST_ENTRY *FASTCALL InterlockedPushEntrySList(SLIST_HEADER *head, SLIST_ENTRY *entry);
#else
IMPORT SLIST_ENTRY *NTAPI ExpInterlockedPopEntrySList(SLIST_HEADER *head);
IMPORT SLIST_ENTRY *NTAPI ExpInterlockedPushEntrySList(SLIST_HEADER *head, SLIST_ENTRY *entry);
#define InterlockedPopEntrySList ExpInterlockedPopEntrySList
#define InterlockedPushEntrySList ExpInterlockedPushEntrySList
#endif

static inline USHORT QueryDepthSList(const SLIST_HEADER *head)
{
    return (USHORT)(head->Parts[0] >> (sizeof(void *) == 4 ? 32 : 0));
}

static inline void *PopFromLookaside(GENERAL_LOOKASIDE *list)
{
    list->TotalAllocates++;
    return InterlockedPopEntrySList(&list->ListHead);
}

/* TRUE when the list kept the block; otherwise the caller returns it to the pool. */
static inline BOOLEAN PushToLookaside(GENERAL_LOOKASIDE *list, void *block)
{
    list->TotalFrees++;
    if (QueryDepthSList(&list->ListHead) >= list->Depth) {
        list->FreeMisses++;
        return FALSE;
    }
    InterlockedPushEntrySList(&list->ListHead, block);
    return TRUE;
}

static inline void *AllocateFromNPagedLookasideList(NPAGED_LOOKASIDE_LIST *list)
{
    void *block = PopFromLookaside(&list->L);

    if (block == NULL) {
        list->L.AllocateMisses++;
        block = list->L.Allocate(list->L.Type, list->L.Size, list->L.Tag);
    }
    return block;
}

static inline void FreeToNPagedLookasideList(NPAGED_LOOKASIDE_LIST *list, void *block)
{
    if (!PushToLookaside(&list->L, block)) {
        list->L.Free(block);
    }
}

static inline void *AllocateFromLookasideListEx(LOOKASIDE_LIST_EX *list)
{
    void *block = PopFromLookaside(&list->L);

    if (block == NULL) {
        list->L.AllocateMisses++;
        block = list->L.AllocateEx(list->L.Type, list->L.Size, list->L.Tag, list);
    }
    return block;
}

static inline void FreeToLookasideListEx(LOOKASIDE_LIST_EX *list, void *block)
{
    if (!PushToLookaside(&list->L, block)) {
        list->L.FreeEx(block, list);
    }
}
