/* A .NET runtime that offers nothing: pykd asks for one when it starts, and goes on without if every call fails. */
#include <windows.h>

enum { METHODS = 64 };

static HRESULT STDMETHODCALLTYPE refuse(void)
{
    return E_NOTIMPL;
}

static void *methods[METHODS];
static void **object = methods;

__declspec(dllexport) HRESULT STDMETHODCALLTYPE CLRCreateInstance(REFCLSID class_id, REFIID interface_id, void **created)
{
    int index;

    (void)class_id;
    (void)interface_id;
    for (index = 0; index < METHODS; index++)
        methods[index] = (void *)refuse;
    *created = &object;
    return S_OK;
}
