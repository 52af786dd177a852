/*
 * ctxreg: a minifilter that attaches a context to each opened file handle.
 * Tag Ctxr, held only by the context registration table in read-only data: the filter manager allocates.
 */
#include "filter.h"

#define CTXREG_TAG 'rxtC'

typedef struct {
    FLT_INSTANCE *Instance;
    FILE_OBJECT *FileObject;
    ULONG Sequence;
} CTXREG_CONTEXT;

static FLT_FILTER *CtxregFilter;
static ULONG CtxregSequence;
static ULONG CtxregClosed;

static void NTAPI CtxregCleanupContext(void *context, USHORT type)
{
    (void)context;
    if (type == FLT_STREAMHANDLE_CONTEXT) {
        CtxregClosed++;
    }
}

static int NTAPI CtxregPreCreate(FLT_CALLBACK_DATA *data, const FLT_RELATED_OBJECTS *objects, void **completion)
{
    (void)data;
    (void)objects;
    *completion = NULL;
    return FLT_PREOP_SUCCESS_WITH_CALLBACK;
}

static int NTAPI CtxregPostCreate(FLT_CALLBACK_DATA *data, const FLT_RELATED_OBJECTS *objects, void *completion,
                                  ULONG flags)
{
    void *block;
    CTXREG_CONTEXT *context;

    (void)completion;
    (void)flags;
    if (!NT_SUCCESS(data->IoStatus.Status) ||
        !NT_SUCCESS(FltAllocateContext(objects->Filter, FLT_STREAMHANDLE_CONTEXT, sizeof(CTXREG_CONTEXT), NonPagedPool,
                                       &block))) {
        return FLT_POSTOP_FINISHED_PROCESSING;
    }
    context = block;
    context->Instance = objects->Instance;
    context->FileObject = objects->FileObject;
    context->Sequence = ++CtxregSequence;
    FltSetStreamHandleContext(objects->Instance, objects->FileObject, FLT_SET_CONTEXT_KEEP_IF_EXISTS, context, NULL);
    FltReleaseContext(context);
    return FLT_POSTOP_FINISHED_PROCESSING;
}

static PAGED_CODE NTSTATUS NTAPI CtxregUnload(ULONG flags)
{
    (void)flags;
    FltUnregisterFilter(CtxregFilter);
    return STATUS_SUCCESS;
}

static const FLT_CONTEXT_REGISTRATION CtxregContexts[] = {
    {.ContextType = FLT_STREAMHANDLE_CONTEXT,
     .ContextCleanupCallback = CtxregCleanupContext,
     .Size = sizeof(CTXREG_CONTEXT),
     .PoolTag = CTXREG_TAG},
    {.ContextType = FLT_CONTEXT_END},
};

static const FLT_OPERATION_REGISTRATION CtxregOperations[] = {
    {.MajorFunction = IRP_MJ_CREATE, .PreOperation = CtxregPreCreate, .PostOperation = CtxregPostCreate},
    {.MajorFunction = IRP_MJ_OPERATION_END},
};

static const FLT_REGISTRATION CtxregRegistration = {
    .Size = sizeof(FLT_REGISTRATION),
    .Version = FLT_REGISTRATION_VERSION,
    .ContextRegistration = CtxregContexts,
    .OperationRegistration = CtxregOperations,
    .FilterUnloadCallback = CtxregUnload,
};

INIT_CODE NTSTATUS NTAPI DriverEntry(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path)
{
    NTSTATUS status = FltRegisterFilter(driver, &CtxregRegistration, &CtxregFilter);

    (void)registry_path;
    if (NT_SUCCESS(status)) {
        status = FltStartFiltering(CtxregFilter);
        if (!NT_SUCCESS(status)) {
            FltUnregisterFilter(CtxregFilter);
        }
    }
    return status;
}
