/* The pool's bookkeeping as a kernel has it: which routines lead to which variables. Compiled for forged kernels. */

typedef unsigned int u32;
typedef unsigned long long u64;
typedef __SIZE_TYPE__ size_t;

#define APART __attribute__((noinline))
#define PAGE_BYTES 4096u
#define HASH_FACTOR 40543u
#define PAGED 0x100u
#define PROTECTED 0x80000000u

typedef struct {
    volatile u32 key;
    volatile size_t nonpaged_bytes, nonpaged_allocs, nonpaged_frees, paged_bytes, paged_allocs, paged_frees;
} tracker_row;

typedef struct {
    volatile size_t va;
    u32 key, kind;
    size_t bytes;
} big_row;

extern tracker_row *PoolTrackTable;
extern size_t PoolTrackTableSize, PoolTrackTableMask;
extern tracker_row *PoolTrackTableExpansion;
extern size_t PoolTrackTableExpansionSize;
extern tracker_row *ExPoolTagTables[];
extern big_row *PoolBigPageTable;
extern size_t PoolBigPageTableSize;
extern u32 ExpPoolBigEntriesInUse;
extern volatile size_t MmSizeOfPagedPoolInBytes;

static inline u32 current_processor(void)
{
    u32 number;
#if defined(__x86_64__)
    __asm__ volatile("movl %%gs:0x1a4, %0" : "=r"(number));
#elif defined(__i386__)
    __asm__ volatile("movl %%fs:0x3cc, %0" : "=r"(number));
#else
    __asm__ volatile("ldr %w0, [x18, #0x24]" : "=r"(number));
#endif
    return number;
}

static inline size_t hash(u32 key)
{
    u64 product = (u64)key * HASH_FACTOR;
    return (u32)product ^ (u32)(product >> 32);
}

static APART void count_in_expansion(u32 key, size_t bytes, u32 kind)
{
    tracker_row *row = PoolTrackTableExpansion;
    for (size_t left = PoolTrackTableExpansionSize; left; left--, row++) {
        if (row->key == key) {
            if (kind & PAGED) {
                row->paged_allocs++;
                row->paged_bytes += bytes;
            } else {
                row->nonpaged_allocs++;
                row->nonpaged_bytes += bytes;
            }
            return;
        }
    }
}

static APART void insert_tracker(u32 key, size_t bytes, u32 kind)
{
    tracker_row *table = ExPoolTagTables[current_processor()];
    size_t mask = PoolTrackTableMask, at = hash(key) & mask, start = at;
    do {
        u32 found = table[at].key;
        if (!found && PoolTrackTable[at].key)
            found = table[at].key = PoolTrackTable[at].key;
        if (!found && at != PoolTrackTableSize - 1)
            found = PoolTrackTable[at].key = table[at].key = key;
        if (found == key) {
            if (kind & PAGED) {
                table[at].paged_allocs++;
                table[at].paged_bytes += bytes;
            } else {
                table[at].nonpaged_allocs++;
                table[at].nonpaged_bytes += bytes;
            }
            return;
        }
        at = (at + 1) & mask;
    } while (at != start);
    count_in_expansion(key, bytes, kind);
}

static APART void remove_tracker(u32 key, size_t bytes, u32 kind)
{
    tracker_row *table = ExPoolTagTables[current_processor()];
    size_t mask = PoolTrackTableMask, at = hash(key) & mask, start = at;
    do {
        if (table[at].key == key) {
            if (kind & PAGED) {
                table[at].paged_frees++;
                table[at].paged_bytes -= bytes;
            } else {
                table[at].nonpaged_frees++;
                table[at].nonpaged_bytes -= bytes;
            }
            return;
        }
        at = (at + 1) & mask;
    } while (at != start);
}

static APART int add_big_page(size_t va, u32 key, size_t bytes, u32 kind)
{
    size_t count = PoolBigPageTableSize, at = hash((u32)(va >> 12)) & (count - 1), start = at;
    big_row *table = PoolBigPageTable;
    do {
        if (table[at].va & 1) {
            table[at].key = key;
            table[at].kind = kind;
            table[at].bytes = bytes;
            table[at].va = va;
            ExpPoolBigEntriesInUse++;
            return 1;
        }
        if (++at >= count)
            at = 0;
    } while (at != start);
    return 0;
}

static APART u32 remove_big_page(size_t va, size_t *bytes, u32 *kind)
{
    size_t at = hash((u32)(va >> 12)) & (PoolBigPageTableSize - 1);
    for (size_t left = PoolBigPageTableSize; left; left--) {
        big_row *row = &PoolBigPageTable[at];
        if (row->va == va) {
            *bytes = row->bytes;
            *kind = row->kind;
            row->va = va | 1;
            ExpPoolBigEntriesInUse--;
            return row->key;
        }
        at = (at + 1) & (PoolBigPageTableSize - 1);
    }
    return 0;
}

static APART size_t take_pages(size_t bytes)
{
    size_t taken = MmSizeOfPagedPoolInBytes;
    MmSizeOfPagedPoolInBytes = taken + ((bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1));
    return taken;
}

static APART size_t allocate_big(u32 kind, size_t bytes, u32 key)
{
    size_t va = take_pages(bytes);
    if (va && !add_big_page(va, key, bytes, kind))
        key = 0x6c6f6f50;
    insert_tracker(key, bytes, kind);
    return va;
}

size_t allocate_pool(u32 kind, size_t bytes, u32 tag)
{
    size_t va;
    if (bytes > PAGE_BYTES - 0x20)
        return allocate_big(kind, bytes, tag & ~PROTECTED);
    va = take_pages(bytes + 16);
    if (va)
        insert_tracker(tag & ~PROTECTED, bytes + 16, kind);
    return va;
}

void free_pool(size_t va, u32 tag)
{
    size_t bytes = 0;
    u32 kind = 0, key;
    if (va & (PAGE_BYTES - 1)) {
        size_t *header = (size_t *)(va - 16);
        bytes = header[0];
        key = tag & ~PROTECTED;
        kind = (u32)header[1];
    } else {
        key = remove_big_page(va, &bytes, &kind);
    }
    if (key)
        remove_tracker(key, bytes, kind);
}
