// !poolleak in WinDbg without pykd: runs poolleak on the dump that is open, and shows what it prints.
//
//   .scriptload C:\folder\poolleak.js        once in every session
//   !poolleak                                the verdict
//   !poolleak "used --top 5"                 any command: WinDbg wants its words as one text
//   !poolleak "diff 'C:/my dumps/before.json'"     single quotes around words with blanks
//
// The file of the dump is put behind the words before the first option, for commands that read one, unless the words
// name a file themselves. The program runs beside the debugger and reads the file, not the session: a live session has
// no file, and needs pykd (poolleak setup-windbg) or a dump of it (.dump /f FILE).
//
// WinDbg's engine is of ECMAScript 2015: nothing newer is used here. Source of what the host offers: Microsoft's
// documentation of JavaScript debugger scripting, and public scripts that use the same calls.
"use strict";

const PROGRAM = ["poolleak"];
const SOURCE_COMMANDS = ["analyze", "used", "find", "blocks", "holders", "processes", "memory", "snapshot"];
const TABLE_COMMANDS = ["diff", "trend", "batch", "history"];
const COLUMNS = "100";
const HELP_WORDS = ["-?", "/?", "-h", "--help", "--version"];

// A command processor would take these for its own, even between quotation marks.
const NEVER_PASSED = /["%^\r\n]/;

function initializeScript() {
    return [new host.apiVersionSupport(1, 3), new host.functionAlias(poolleak, "poolleak")];
}

function poolleak(typed) {
    const words = __split(typed === undefined ? "" : String(typed));
    const isCommand = words.length > 0 && (__isHelp(words[0]) || !(words[0].startsWith("-") || __isFile(words[0])));
    const command = isCommand ? words.shift() : "analyze";  // the program has a guess for misspelt ones
    const asksHelp = __isHelp(command) || words.some(__isHelp);
    const firstOption = words.findIndex(word => word.startsWith("-"));
    const end = firstOption < 0 ? words.length : firstOption;
    if (SOURCE_COMMANDS.indexOf(command) >= 0 && !asksHelp && !words.slice(0, end).some(__isFile)) {
        const dump = __findDump();
        if (dump === null) {
            __print("poolleak: this session has no dump file, and poolleak reads a live one through pykd only.");
            __print("Hint: poolleak setup-windbg tells how; or .dump /f FILE, and open that file.");
            return;
        }
        words.splice(end, 0, dump);
    }
    const refused = words.find(word => NEVER_PASSED.test(word));
    if (refused !== undefined) {
        __print(`poolleak: found a quotation mark, %, ^ or line end in ${refused}, which the shell would take for its own.`);
        return;
    }
    const namesOutput = words.some(word => word === "-o" || word.startsWith("--output") || word.startsWith("--format"));
    const hasLinks = SOURCE_COMMANDS.concat(TABLE_COMMANDS).indexOf(command) >= 0 && command !== "snapshot";
    if (asksHelp || namesOutput || !hasLinks) {
        __run([command, ...words]);
        return;
    }
    const files = host.namespace.Debugger.Utility.FileSystem;
    const path = `${files.TempDirectory}\\poolleak-${Math.floor(Math.random() * 1e9)}.dml`;
    const width = words.some(word => word.startsWith("--width")) ? [] : ["--width", COLUMNS];
    __run([command, ...words, ...width, "--format", "dml", "-o", path]);
    if (files.FileExists(path)) {
        __show(files, path);
        __print(`With links: .dml_start ${path}`);
    }
}

// Words between blanks; single quotes hold words with blanks together. An expression of the debugger may or may not have
// taken one of two backslashes away: those at the beginning of a word name a server.
function __split(text) {
    const words = [];
    const pattern = /'([^']*)'|[^\s']+/g;
    for (let found = pattern.exec(text); found !== null; found = pattern.exec(text)) {
        words.push((found[1] === undefined ? found[0] : found[1]).replace(/(?!^)\\{2,}/g, "\\"));
    }
    return words;
}

function __isHelp(word) {
    return HELP_WORDS.indexOf(word) >= 0;
}

function __isFile(word) {
    return word.length > 4 && (/[\/\\]/.test(word.replace(/\\x[0-9a-fA-F]{2}/g, "")) || /\.\w{2,5}$/.test(word));
}

// The file of the session that the debugger is in, by its list of sessions: ".  0 64-bit Kernel dump: C:\MEMORY.DMP".
function __findDump() {
    for (const line of __execute("||")) {
        const found = /^\.\s*\d+\s.*?\bdump: (.+)$/.exec(__trim(line));
        if (found) {
            return found[1];
        }
    }
    return null;
}

// What the program says beside its answer is what .shell gives back; without a file, its answer, too.
function __run(words) {
    const quoted = [...PROGRAM, ...words].map(word => /^[\w.:\\\/=,*?-]+$/.test(word) ? word : `"${word}"`);
    for (const line of __execute(`.shell -i- cmd /c call ${quoted.join(" ")}`)) {
        const text = __trim(line);
        if (!text.startsWith(".shell: ")) {
            __print(text);
        }
    }
}

function __trim(line) {
    return String(line).replace(/\s+$/, "");
}

function __execute(command) {
    return host.namespace.Debugger.Utility.Control.ExecuteCommand(command);
}

// The text of a file of DML.
function __show(files, path) {
    const file = files.OpenFile(path);
    const reader = files.CreateTextReader(file, "Ascii");
    for (const line of reader.ReadLineContents()) {
        __print(String(line).replace(/<[^>]*>/g, "").replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&quot;/g, '"')
            .replace(/&amp;/g, "&"));
    }
    file.Close();
}

function __print(text) {
    host.diagnostics.debugLog(text, "\n");
}
