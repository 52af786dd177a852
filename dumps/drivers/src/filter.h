/* The part of the filter manager's interface that a small minifilter needs. */
#pragma once
#include "kernel.h"

typedef struct FLT_FILTER FLT_FILTER;
typedef struct FLT_INSTANCE FLT_INSTANCE;
typedef struct FLT_VOLUME FLT_VOLUME;

#define FLT_STREAMHANDLE_CONTEXT 0x0010
#define FLT_CONTEXT_END 0xFFFF
#define FLT_REGISTRATION_VERSION 0x0203
#define FLT_SET_CONTEXT_KEEP_IF_EXISTS 1
#define FLT_PREOP_SUCCESS_WITH_CALLBACK 0
#define FLT_POSTOP_FINISHED_PROCESSING 0
#define IRP_MJ_OPERATION_END 0x80

typedef struct {
    ULONG Flags;
    void *Thread;
    void *Parameters;
    struct {
        NTSTATUS POINTER_ALIGNED Status;
        ULONG_PTR Information;
    } IoStatus;
} FLT_CALLBACK_DATA;

typedef struct {
    USHORT Size;
    USHORT TransactionContext;
    FLT_FILTER *Filter;
    FLT_VOLUME *Volume;
    FLT_INSTANCE *Instance;
    FILE_OBJECT *FileObject;
    void *Transaction;
} FLT_RELATED_OBJECTS;

typedef void NTAPI FLT_CONTEXT_CLEANUP(void *context, USHORT type);

typedef struct {
    USHORT ContextType;
    USHORT Flags;
    FLT_CONTEXT_CLEANUP *ContextCleanupCallback;
    SIZE_T Size;
    ULONG PoolTag;
    void *ContextAllocateCallback;
    void *ContextFreeCallback;
    void *Reserved1;
} FLT_CONTEXT_REGISTRATION;

#if defined(__i386__)
_Static_assert(sizeof(FLT_CONTEXT_REGISTRATION) == 0x1C, "FLT_CONTEXT_REGISTRATION of x86");
_Static_assert(__builtin_offsetof(FLT_CONTEXT_REGISTRATION, PoolTag) == 0xC, "FLT_CONTEXT_REGISTRATION of x86");
#else
_Static_assert(sizeof(FLT_CONTEXT_REGISTRATION) == 0x38, "FLT_CONTEXT_REGISTRATION of 64-bit Windows");
_Static_assert(__builtin_offsetof(FLT_CONTEXT_REGISTRATION, PoolTag) == 0x18, "FLT_CONTEXT_REGISTRATION");
#endif

typedef int NTAPI FLT_PRE_OPERATION(FLT_CALLBACK_DATA *data, const FLT_RELATED_OBJECTS *objects, void **completion);
typedef int NTAPI FLT_POST_OPERATION(FLT_CALLBACK_DATA *data, const FLT_RELATED_OBJECTS *objects, void *completion,
                                     ULONG flags);
typedef NTSTATUS NTAPI FLT_FILTER_UNLOAD(ULONG flags);

typedef struct {
    UCHAR MajorFunction;
    ULONG Flags;
    FLT_PRE_OPERATION *PreOperation;
    FLT_POST_OPERATION *PostOperation;
    void *Reserved1;
} FLT_OPERATION_REGISTRATION;

typedef struct {
    USHORT Size;
    USHORT Version;
    ULONG Flags;
    const FLT_CONTEXT_REGISTRATION *ContextRegistration;
    const FLT_OPERATION_REGISTRATION *OperationRegistration;
    FLT_FILTER_UNLOAD *FilterUnloadCallback;
    void *InstanceSetupCallback;
    void *InstanceQueryTeardownCallback;
    void *InstanceTeardownStartCallback;
    void *InstanceTeardownCompleteCallback;
    void *GenerateFileNameCallback;
    void *NormalizeNameComponentCallback;
    void *NormalizeContextCleanupCallback;
    void *TransactionNotificationCallback;
    void *NormalizeNameComponentExCallback;
    void *SectionNotificationCallback;
} FLT_REGISTRATION;

IMPORT NTSTATUS NTAPI FltRegisterFilter(DRIVER_OBJECT *driver, const FLT_REGISTRATION *registration,
                                        FLT_FILTER **filter);
IMPORT NTSTATUS NTAPI FltStartFiltering(FLT_FILTER *filter);
IMPORT void NTAPI FltUnregisterFilter(FLT_FILTER *filter);
IMPORT NTSTATUS NTAPI FltAllocateContext(FLT_FILTER *filter, USHORT type, SIZE_T bytes, POOL_TYPE pool,
                                         void **context);
IMPORT NTSTATUS NTAPI FltSetStreamHandleContext(FLT_INSTANCE *instance, FILE_OBJECT *file, int operation,
                                                void *context, void **old_context);
IMPORT void NTAPI FltReleaseContext(void *context);
