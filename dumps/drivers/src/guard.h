/*
 * What control flow guard needs in a driver for x64 or ARM64: the pointers that the kernel aims at its own checks while
 * it loads the driver, and the directory that tells it where they are. Until then they aim at functions that do nothing.
 */
#pragma once
#include "kernel.h"

/* The target is in x15; the caller calls it after the check. */
__attribute__((naked)) void GuardCheck(void)
{
    __asm__("ret");
}

extern void (*const volatile __guard_check_icall_fptr)(void);
__attribute__((section(".rdata"))) void (*const volatile __guard_check_icall_fptr)(void) = GuardCheck;

#if defined(__x86_64__)
/* The target is in rax: the check ends with the jump. */
__attribute__((naked)) void GuardDispatch(void)
{
    __asm__("jmpq *%rax");
}

extern void (*const volatile __guard_dispatch_icall_fptr)(void);
__attribute__((section(".rdata"))) void (*const volatile __guard_dispatch_icall_fptr)(void) = GuardDispatch;
#define GUARD_DISPATCH_POINTER &__guard_dispatch_icall_fptr
#else
#define GUARD_DISPATCH_POINTER NULL
#endif

typedef struct {
    ULONG Size;
    UCHAR Unused[0x6C];
    const volatile void *GuardCFCheckFunctionPointer;
    const volatile void *GuardCFDispatchFunctionPointer;
    void *GuardCFFunctionTable;
    ULONG64 GuardCFFunctionCount;
    ULONG GuardFlags;
    UCHAR Rest[0x0C];
} LOAD_CONFIG_DIRECTORY;

_Static_assert(__builtin_offsetof(LOAD_CONFIG_DIRECTORY, GuardCFCheckFunctionPointer) == 0x70, "load configuration");

#define GUARD_CF_INSTRUMENTED 0x100

extern const LOAD_CONFIG_DIRECTORY _load_config_used;
const LOAD_CONFIG_DIRECTORY _load_config_used = {
    .Size = sizeof(LOAD_CONFIG_DIRECTORY),
    .GuardCFCheckFunctionPointer = &__guard_check_icall_fptr,
    .GuardCFDispatchFunctionPointer = GUARD_DISPATCH_POINTER,
    .GuardFlags = GUARD_CF_INSTRUMENTED,
};
