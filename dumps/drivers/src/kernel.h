/*
 * The few declarations that the sample drivers need, for a freestanding build without a driver kit.
 * Member order and sizes follow the documented structures of x86, x64 and ARM64 Windows; members that no
 * sample touches are kept only as far as they give the later ones their place.
 */
#pragma once

typedef unsigned char UCHAR;
typedef signed char CCHAR;
typedef unsigned short USHORT;
typedef short SHORT;
typedef unsigned short WCHAR;
typedef unsigned int ULONG;
typedef int LONG;
typedef unsigned long long ULONG64;
typedef __SIZE_TYPE__ SIZE_T;
typedef __UINTPTR_TYPE__ ULONG_PTR;
typedef __INTPTR_TYPE__ LONG_PTR;
typedef UCHAR BOOLEAN;
typedef LONG NTSTATUS;
typedef void *HANDLE;

#define NTAPI __stdcall
#if defined(__i386__)
#define FASTCALL __fastcall
#else
#define FASTCALL
#endif
#define IMPORT __declspec(dllimport)
#define NOINLINE __attribute__((noinline))
#define INIT_CODE __attribute__((section("INIT"), noinline))
#define PAGED_CODE __attribute__((section("PAGE"), noinline))
#define POINTER_ALIGNED __attribute__((aligned(sizeof(void *))))

#define FALSE 0
#define TRUE 1
#define NULL ((void *)0)
#define CONTAINING_RECORD(address, type, field) ((type *)((char *)(address) - __builtin_offsetof(type, field)))

#define STATUS_SUCCESS ((NTSTATUS)0x00000000)
#define STATUS_INVALID_DEVICE_REQUEST ((NTSTATUS)0xC0000010)
#define STATUS_NOT_FOUND ((NTSTATUS)0xC0000225)
#define STATUS_BUFFER_TOO_SMALL ((NTSTATUS)0xC0000023)
#define STATUS_INSUFFICIENT_RESOURCES ((NTSTATUS)0xC000009A)
#define NT_SUCCESS(status) ((status) >= 0)

/* A pool tag is a four-character constant; 'opiP' is stored as the bytes "Pipo". */
typedef enum { NonPagedPool = 0, PagedPool = 1, NonPagedPoolNx = 512 } POOL_TYPE;
#define POOL_FLAG_NON_PAGED 0x40ULL

typedef struct LIST_ENTRY {
    struct LIST_ENTRY *Flink;
    struct LIST_ENTRY *Blink;
} LIST_ENTRY;

typedef struct {
    USHORT Length;
    USHORT MaximumLength;
    WCHAR *Buffer;
} UNICODE_STRING;

/* Initialiser of a counted string from a wide literal. */
#define COUNTED_STRING(text) {sizeof(text) - sizeof(WCHAR), sizeof(text), (WCHAR *)(text)}

/* I/O manager */

#define IRP_MJ_CREATE 0x00
#define IRP_MJ_CLOSE 0x02
#define IRP_MJ_WRITE 0x04
#define IRP_MJ_DEVICE_CONTROL 0x0E
#define IRP_MJ_MAXIMUM_FUNCTION 0x1B
#define FILE_DEVICE_UNKNOWN 0x22
#define FILE_DEVICE_SECURE_OPEN 0x100
#define DO_BUFFERED_IO 0x4
#define IO_NO_INCREMENT 0
#define CUSTOM_IOCTL(function) ((FILE_DEVICE_UNKNOWN << 16) | ((function) << 2))

typedef struct DEVICE_OBJECT DEVICE_OBJECT;
typedef struct DRIVER_OBJECT DRIVER_OBJECT;
typedef struct FILE_OBJECT FILE_OBJECT;
typedef struct EPROCESS EPROCESS;
typedef struct ACCESS_TOKEN ACCESS_TOKEN;

typedef struct {
    UCHAR MajorFunction;
    UCHAR MinorFunction;
    UCHAR Flags;
    UCHAR Control;
    union {
        struct {
            ULONG Length;
            ULONG POINTER_ALIGNED Key;
        } Write;
        struct {
            ULONG OutputBufferLength;
            ULONG POINTER_ALIGNED InputBufferLength;
            ULONG POINTER_ALIGNED IoControlCode;
            void *Type3InputBuffer;
        } DeviceIoControl;
    } Parameters;
    DEVICE_OBJECT *DeviceObject;
    FILE_OBJECT *FileObject;
} IO_STACK_LOCATION;

typedef struct {
    SHORT Type;
    USHORT Size;
    void *MdlAddress;
    ULONG Flags;
    void *SystemBuffer;
    LIST_ENTRY ThreadListEntry;
    struct {
        NTSTATUS POINTER_ALIGNED Status;
        ULONG_PTR Information;
    } IoStatus;
    CCHAR RequestorMode;
    BOOLEAN PendingReturned;
    CCHAR StackCount;
    CCHAR CurrentLocation;
    BOOLEAN Cancel;
    UCHAR CancelIrql;
    CCHAR ApcEnvironment;
    UCHAR AllocationFlags;
    void *UserIosb;
    void *UserEvent;
    void *Overlay[2];
    void *CancelRoutine;
    void *UserBuffer;
    void *DriverContext[4];
    void *Thread;
    void *AuxiliaryBuffer;
    LIST_ENTRY ListEntry;
    IO_STACK_LOCATION *CurrentStackLocation;
} IRP;

typedef NTSTATUS NTAPI DRIVER_DISPATCH(DEVICE_OBJECT *device, IRP *irp);
typedef void NTAPI DRIVER_UNLOAD(DRIVER_OBJECT *driver);

struct DRIVER_OBJECT {
    SHORT Type;
    SHORT Size;
    DEVICE_OBJECT *DeviceObject;
    ULONG Flags;
    void *DriverStart;
    ULONG DriverSize;
    void *DriverSection;
    void *DriverExtension;
    UNICODE_STRING DriverName;
    UNICODE_STRING *HardwareDatabase;
    void *FastIoDispatch;
    void *DriverInit;
    void *DriverStartIo;
    DRIVER_UNLOAD *DriverUnload;
    DRIVER_DISPATCH *MajorFunction[IRP_MJ_MAXIMUM_FUNCTION + 1];
};

struct DEVICE_OBJECT {
    SHORT Type;
    USHORT Size;
    LONG ReferenceCount;
    DRIVER_OBJECT *DriverObject;
    DEVICE_OBJECT *NextDevice;
    DEVICE_OBJECT *AttachedDevice;
    IRP *CurrentIrp;
    void *Timer;
    ULONG Flags;
};

#if defined(__i386__)
_Static_assert(__builtin_offsetof(DRIVER_OBJECT, MajorFunction) == 0x38, "DRIVER_OBJECT of x86");
_Static_assert(__builtin_offsetof(IRP, CurrentStackLocation) == 0x60, "IRP of x86");
#else
_Static_assert(__builtin_offsetof(DRIVER_OBJECT, MajorFunction) == 0x70, "DRIVER_OBJECT of 64-bit Windows");
_Static_assert(__builtin_offsetof(IRP, CurrentStackLocation) == 0xB8, "IRP of 64-bit Windows");
#endif

IMPORT NTSTATUS NTAPI IoCreateDevice(DRIVER_OBJECT *driver, ULONG extension_bytes, UNICODE_STRING *name, ULONG type,
                                     ULONG characteristics, BOOLEAN exclusive, DEVICE_OBJECT **device);
IMPORT void NTAPI IoDeleteDevice(DEVICE_OBJECT *device);
IMPORT void FASTCALL IofCompleteRequest(IRP *irp, CCHAR priority_boost);

/* Pool allocator */

IMPORT void *NTAPI ExAllocatePoolWithTag(POOL_TYPE type, SIZE_T bytes, ULONG tag);
IMPORT void *NTAPI ExAllocatePool2(ULONG64 flags, SIZE_T bytes, ULONG tag);
IMPORT void NTAPI ExFreePoolWithTag(void *block, ULONG tag);

/* Executive resources: a lock that a driver may hold while it touches pageable data */

typedef struct {
    void *Opaque[13]; /* 68h bytes on 64-bit Windows; 38h on x86, where the rest stays unused */
} ERESOURCE;

IMPORT NTSTATUS NTAPI ExInitializeResourceLite(ERESOURCE *resource);
IMPORT NTSTATUS NTAPI ExDeleteResourceLite(ERESOURCE *resource);
IMPORT void *NTAPI ExEnterCriticalRegionAndAcquireResourceExclusive(ERESOURCE *resource);
IMPORT void FASTCALL ExReleaseResourceAndLeaveCriticalRegion(ERESOURCE *resource);

/* Object manager and process structure */

typedef void NTAPI CREATE_PROCESS_NOTIFY(HANDLE parent_id, HANDLE process_id, BOOLEAN created);
typedef struct {
    ULONG Properties;
    void *ImageBase;
    ULONG ImageSelector;
    SIZE_T ImageSize;
    ULONG ImageSectionNumber;
} IMAGE_INFO;

typedef void NTAPI LOAD_IMAGE_NOTIFY(UNICODE_STRING *path, HANDLE process_id, IMAGE_INFO *image);

IMPORT NTSTATUS NTAPI PsSetCreateProcessNotifyRoutine(CREATE_PROCESS_NOTIFY *routine, BOOLEAN remove);
IMPORT NTSTATUS NTAPI PsSetLoadImageNotifyRoutine(LOAD_IMAGE_NOTIFY *routine);
IMPORT NTSTATUS NTAPI PsRemoveLoadImageNotifyRoutine(LOAD_IMAGE_NOTIFY *routine);
IMPORT NTSTATUS NTAPI PsLookupProcessByProcessId(HANDLE process_id, EPROCESS **process);
IMPORT ACCESS_TOKEN *NTAPI PsReferencePrimaryToken(EPROCESS *process);
IMPORT void NTAPI PsDereferencePrimaryToken(ACCESS_TOKEN *token);
IMPORT LONG_PTR FASTCALL ObfDereferenceObject(void *object);

/* Doubly linked lists, and the one block operation that the samples need */

#define EMPTY_LIST(head) {&(head), &(head)}

static inline void InsertTailList(LIST_ENTRY *head, LIST_ENTRY *entry)
{
    entry->Flink = head;
    entry->Blink = head->Blink;
    head->Blink->Flink = entry;
    head->Blink = entry;
}

static inline void RemoveEntryList(LIST_ENTRY *entry)
{
    entry->Blink->Flink = entry->Flink;
    entry->Flink->Blink = entry->Blink;
}

static inline LIST_ENTRY *RemoveHeadList(LIST_ENTRY *head)
{
    LIST_ENTRY *entry = head->Flink;
    RemoveEntryList(entry);
    return entry;
}

static inline void CopyBytes(UCHAR *to, const UCHAR *from, SIZE_T bytes)
{
    while (bytes--) {
        *to++ = *from++;
    }
}
