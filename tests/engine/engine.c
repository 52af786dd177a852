/* Runs debugger commands over a crash dump with Microsoft's debugger engine.
 *
 * engine.exe ENGINE_FOLDER DUMP COMMANDS
 *
 * ENGINE_FOLDER holds dbgeng.dll, COMMANDS is a text file with one command a line. Standard output gets what the
 * engine prints: first while it opens the dump, then for every command, in order, a line that begins with the record
 * separator (1Eh) and repeats the command, and its output. A command that the engine refuses adds a line with its
 * HRESULT and the run goes on.
 */
#include <stdio.h>
#include <string.h>

#include <initguid.h>
#include <windows.h>
#include <dbgeng.h>

enum { DONE = 0, BAD_USAGE = 2, NO_ENGINE = 3, DUMP_REFUSED = 4 };
enum { COMMAND_CHARACTERS = 4096, OPEN_MILLISECONDS = 60000 };

typedef HRESULT (WINAPI *debug_create)(REFIID interface_id, void **object);

/* The engine prefers IDebugOutputCallbacks2, with markup, where an object has it: this one has plain text only. */
static HRESULT STDMETHODCALLTYPE output_query_interface(IDebugOutputCallbacks *self, REFIID interface_id, void **object)
{
    if (IsEqualGUID(interface_id, &IID_IUnknown) || IsEqualGUID(interface_id, &IID_IDebugOutputCallbacks)) {
        *object = self;
        return S_OK;
    }
    *object = NULL;
    return E_NOINTERFACE;
}

static ULONG STDMETHODCALLTYPE output_reference(IDebugOutputCallbacks *self)
{
    (void)self;
    return 1; /* a static object: nobody counts */
}

static HRESULT STDMETHODCALLTYPE output_text(IDebugOutputCallbacks *self, ULONG mask, PCSTR text)
{
    (void)self;
    (void)mask;
    fputs(text, stdout);
    return S_OK;
}

static IDebugOutputCallbacksVtbl output_methods = {
    output_query_interface, output_reference, output_reference, output_text};
static IDebugOutputCallbacks output = {&output_methods};

static int fail(int status, const char *what, const char *subject, HRESULT result)
{
    printf("\n%s: %s: 0x%08lx\n", what, subject, (unsigned long)result);
    return status;
}

static debug_create load_engine(const char *folder)
{
    char path[MAX_PATH];
    HMODULE engine;

    SetDllDirectoryA(folder); /* dbghelp.dll and the others stand beside it */
    snprintf(path, sizeof path, "%s\\dbgeng.dll", folder);
    engine = LoadLibraryExA(path, NULL, LOAD_WITH_ALTERED_SEARCH_PATH);
    return engine ? (debug_create)(void *)GetProcAddress(engine, "DebugCreate") : NULL;
}

static void execute_commands(IDebugControl *control, FILE *commands)
{
    char line[COMMAND_CHARACTERS];

    while (fgets(line, sizeof line, commands)) {
        HRESULT result;

        line[strcspn(line, "\r\n")] = 0;
        printf("\n\x1e%s\n", line);
        result = control->lpVtbl->Execute(control, DEBUG_OUTCTL_THIS_CLIENT, line, DEBUG_EXECUTE_NOT_LOGGED);
        if (FAILED(result))
            printf("command refused: 0x%08lx\n", (unsigned long)result);
    }
}

int main(int count, char **arguments)
{
    debug_create create;
    IDebugClient *client;
    IDebugControl *control;
    FILE *commands;
    HRESULT result;

    setvbuf(stdout, NULL, _IONBF, 0);
    if (count != 4)
        return fail(BAD_USAGE, "usage", "engine.exe ENGINE_FOLDER DUMP COMMANDS", E_INVALIDARG);
    commands = fopen(arguments[3], "r");
    if (!commands)
        return fail(BAD_USAGE, "no commands", arguments[3], E_INVALIDARG);
    create = load_engine(arguments[1]);
    if (!create)
        return fail(NO_ENGINE, "no dbgeng.dll", arguments[1], HRESULT_FROM_WIN32(GetLastError()));
    result = create(&IID_IDebugClient, (void **)&client);
    if (FAILED(result))
        return fail(NO_ENGINE, "no debug client", arguments[1], result);
    result = client->lpVtbl->QueryInterface(client, &IID_IDebugControl, (void **)&control);
    if (FAILED(result))
        return fail(NO_ENGINE, "no debug control", arguments[1], result);
    client->lpVtbl->SetOutputCallbacks(client, &output);
    result = client->lpVtbl->OpenDumpFile(client, arguments[2]);
    if (FAILED(result))
        return fail(DUMP_REFUSED, "dump refused", arguments[2], result);
    result = control->lpVtbl->WaitForEvent(control, DEBUG_WAIT_DEFAULT, OPEN_MILLISECONDS);
    if (FAILED(result))
        return fail(DUMP_REFUSED, "dump opened, but refused", arguments[2], result);
    execute_commands(control, commands);
    TerminateProcess(GetCurrentProcess(), DONE); /* extensions such as pykd crash when the engine unloads them */
    return DONE;
}
