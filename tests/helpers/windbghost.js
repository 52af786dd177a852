// WinDbg's JavaScript host for poolleak.js under Node: `node windbghost.js SCRIPT SESSION TEMP [TEXT]`.
//
// SESSION is what `||` prints of the session, as Microsoft's engine words it. `.shell` runs the program as cmd would take
// the line apart: words between blanks, quotation marks around words, backslashes as they are. WinDbg's engine is of
// ECMAScript 2015: what came later is taken away.
"use strict";
const childProcess = require("child_process");
const fs = require("fs");
const vm = require("vm");

const [script, session, temporary, typed] = process.argv.slice(2);
const aliases = {};
const files = {
    TempDirectory: temporary,
    FileExists: path => fs.existsSync(path),
    OpenFile: path => ({ path, Close() { fs.unlinkSync(path); } }),
    CreateTextReader: (file, encoding) => ({
        * ReadLineContents() {
            if (encoding !== "Ascii") throw new Error(`encoding ${encoding}`);
            yield* fs.readFileSync(file.path, "ascii").replace(/\n$/, "").split("\n");
        },
    }),
};

function* execute(command) {
    if (command === "||") {
        yield session;
        return;
    }
    const shell = /^\.shell -i- cmd \/c call (.*)$/.exec(command);
    if (!shell) throw new Error(`unknown command ${command}`);
    const words = Array.from(shell[1].matchAll(/"([^"]*)"|[^\s"]+/g), found => found[1] ?? found[0]);
    const done = childProcess.spawnSync(words[0], words.slice(1), { encoding: "utf8" });
    yield* (done.stdout + done.stderr).split("\n").filter(line => line);
    yield ".shell: Process exited";
}

const host = {
    apiVersionSupport: class { constructor(major, minor) { Object.assign(this, { major, minor }); } },
    functionAlias: class { constructor(made, name) { aliases[name] = made; } },
    diagnostics: { debugLog: (...parts) => process.stdout.write(parts.join("")) },
    namespace: { Debugger: { Utility: { Control: { ExecuteCommand: execute }, FileSystem: files } } },
};

const context = vm.createContext({ host });
vm.runInContext(`
    const newer = {
        String: ["matchAll", "trimEnd", "trimStart", "padStart", "padEnd", "replaceAll", "at"],
        Array: ["includes", "flat", "flatMap", "at", "findLast", "toSorted"],
    };
    for (const [type, names] of [[String, newer.String], [Array, newer.Array]]) {
        names.forEach(name => { delete type.prototype[name]; });
    }
    ["values", "entries", "fromEntries", "hasOwn"].forEach(name => { delete Object[name]; });
`, context);
vm.runInContext(fs.readFileSync(script, "utf8"), context);
const registered = vm.runInContext("initializeScript()", context);
if (!registered.some(item => item.major === 1)) throw new Error("no version of the API is asked for");
if (typed === undefined) aliases.poolleak();
else aliases.poolleak(typed);
