// What C++ adds to lists of fields: bases, tables of virtual functions, methods, static members, nested types.

struct base { int base_field; virtual int once(); virtual ~base(); };
struct shared { long long shared_field; };

struct derived : base, virtual shared {
    enum kind { NONE, SOME = 100000 };
    struct inner { short a, b; };
    static int counter;
    kind what;
    inner pair;
    int once() override;
    virtual void fresh(int) = 0;
    int overloaded(int);
    int overloaded(long);
    derived();
    char tail;
};

namespace scope { struct derived { char other[3]; }; }

int base::once() { return base_field; }
base::~base() {}
int derived::counter = 3;
int derived::once() { return counter + sizeof(inner); }
int derived::overloaded(int value) { return value + what; }
int derived::overloaded(long value) { return value + pair.a; }
derived::derived() : what(SOME), tail(1) {}
scope::derived elsewhere;

void operator delete(void *, decltype(sizeof(0))) {}
extern "C" void _purecall() {}
