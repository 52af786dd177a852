/*
 * Stands for the library with which drivers of Windows' driver kit create secured devices: its code is part of each of
 * them, and its tags are those of the library (SeSd, SeAl, SeTs, PpRb, PpUc).
 */
#pragma once
#include "allocators.h"

static NOINLINE void *SecurityLibraryCopy(const ULONG *words, ULONG count)
{
    ULONG *copy = ExAllocatePoolWithTag(PagedPool, count * sizeof(ULONG), 'dSeS');

    if (copy != NULL) {
        CopyBytes((UCHAR *)copy, (const UCHAR *)words, count * sizeof(ULONG));
    }
    return copy;
}

static NOINLINE void *SecurityLibraryList(ULONG entries)
{
    UCHAR *list = ExAllocatePoolWithTag(PagedPool, 8 + 20 * entries, 'lAeS');

    if (list != NULL) {
        ClearBytes(list, 8);
    }
    return list;
}

static NOINLINE void *SecurityLibraryText(ULONG characters)
{
    WCHAR *text = ExAllocatePoolWithTag(PagedPool, characters * sizeof(WCHAR), 'sTeS');

    if (text != NULL) {
        *text = 0;
    }
    return text;
}

static NOINLINE void *SecurityLibraryRegistryValue(ULONG bytes)
{
    void *value = ExAllocatePoolWithTag(PagedPool, bytes, 'bRpP');

    if (value != NULL) {
        ClearBytes(value, bytes);
    }
    return value;
}

static NOINLINE void *SecurityLibraryName(const ULONG *words)
{
    ULONG *name = ExAllocatePoolWithTag(PagedPool, 0x80, 'cUpP');

    if (name != NULL) {
        *name = *words;
    }
    return name;
}

static inline NTSTATUS SecurityLibraryApply(const ULONG *words, ULONG count)
{
    void *parts[5];

    if (count == 0) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    parts[0] = SecurityLibraryCopy(words, count);
    parts[1] = SecurityLibraryList(words[0] % 16);
    parts[2] = SecurityLibraryText(count);
    parts[3] = SecurityLibraryRegistryValue(count);
    parts[4] = SecurityLibraryName(words);
    for (ULONG n = 0; n < 5; n++) {
        if (parts[n] != NULL) {
            ExFreePoolWithTag(parts[n], 0);
        }
    }
    return STATUS_SUCCESS;
}
