/* Shapes that a compiler makes of structures, names and addresses: built for x64 and x86 by build.py. */

typedef enum { RED, GREEN = 70000 } COLOUR;

struct announced_only;

struct point { short x; int y; };

union word { unsigned long long whole; struct { unsigned low; unsigned high; }; unsigned char bytes[8]; };

struct shapes {
    char letter;
    struct point nested;
    struct point array[3][2];
    union word word;
    struct { int inner; struct { char deep[5]; } unnamed; } named;
    struct { int anonymous_int; union { char anonymous_char; double anonymous_double; }; };
    unsigned one : 1, seven : 7, rest : 24;
    unsigned char : 3, byte_bits : 4;
    unsigned long long wide_bits : 40;
    const volatile struct point qualified;
    struct point *pointer;
    struct announced_only *to_announced;
    int (*function)(struct point *, long);
    COLOUR colour;
    long double floating;
    _Bool truth;
    __WCHAR_TYPE__ name[4];
};

#define FIELD(n) int field_##n;
#define TEN(n) FIELD(n##0) FIELD(n##1) FIELD(n##2) FIELD(n##3) FIELD(n##4) \
               FIELD(n##5) FIELD(n##6) FIELD(n##7) FIELD(n##8) FIELD(n##9)
#define HUNDRED(n) TEN(n##0) TEN(n##1) TEN(n##2) TEN(n##3) TEN(n##4) TEN(n##5) TEN(n##6) TEN(n##7) TEN(n##8) TEN(n##9)
#define THOUSAND(n) HUNDRED(n##0) HUNDRED(n##1) HUNDRED(n##2) HUNDRED(n##3) HUNDRED(n##4) \
                    HUNDRED(n##5) HUNDRED(n##6) HUNDRED(n##7) HUNDRED(n##8) HUNDRED(n##9)

/* Its fields need more than the 64 KB of one type record: field_1000 to field_5999. */
struct crowded {
    char first;
    THOUSAND(1) THOUSAND(2) THOUSAND(3) THOUSAND(4) THOUSAND(5)
    char last;
};

struct shapes PoolTrackTable;
struct crowded crowded_variable;
int initialized = 5;
static int hidden = 6;

int plain(int value) { return value + hidden++; }
int __stdcall standard(int value) { return value + hidden++; }
int __fastcall fast(int value) { return value + hidden++; }
