// Opens a trace in Perfetto's own user interface in headless Chromium, and uses it as a person does:
// node ui.mjs FOLDER-OF-NODE-MODULES CHROMIUM BUILT-INTERFACE TRACE SCREENSHOTS
import { createServer } from "node:http";
import { mkdirSync, readFileSync } from "node:fs";
import { extname, join, normalize } from "node:path";
import { createRequire } from "node:module";
import { checks } from "./checks.mjs";

const [modules, executablePath, interfaceFolder, trace, pictures] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, "x"))("playwright-core");
mkdirSync(pictures, { recursive: true });

const { check, end } = checks("Perfetto's interface");

const types = { ".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".json": "application/json", ".wasm": "application/wasm", ".woff2": "font/woff2" };
const server = createServer((request, response) => {
  let path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
  if (path.endsWith("/")) path += "index.html";
  try {
    const bytes = readFileSync(join(interfaceFolder, path));
    response.writeHead(200, { "content-type": types[extname(path)] ?? "application/octet-stream" }).end(bytes);
  } catch {
    response.writeHead(404).end();
  }
}).listen(0, "127.0.0.1");
await new Promise(ready => server.once("listening", ready));

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1500, height: 900 }, serviceWorkers: "block" });
const page = await context.newPage();
page.setDefaultTimeout(60000);
const broken = [];
page.on("pageerror", error => broken.push(String(error)));
await page.goto(`http://127.0.0.1:${server.address().port}/`);
await page.locator("input[type=file]").first().setInputFiles(trace, { timeout: 60000 });
await page.getByText(/^python3 \d+$/).first().waitFor();
await page.getByRole("button", { name: "OK" }).click({ timeout: 3000 }).catch(() => {});
const body = () => page.locator("body").innerText();
check("the trace opens", /python3 \d+/.test(await body()));

// A finding is looked for by its rule's name, and shown with its advice and the arrow that leads to it.
const box = page.locator(".pf-omnibox input, input[placeholder*='Search']").first();
await box.click();
await box.fill("stale-close");
// Enter goes to the next place that was found, once the search is through.
for (let tries = 0; tries < 20 && !/advice/.test(await body()); tries++) {
  await page.keyboard.press("Enter");
  await page.waitForTimeout(1500);
}
await page.keyboard.press("f");
await page.waitForTimeout(2500);
const details = await body();
check("a search finds the finding and shows what it says", /stale-close/.test(details) && /advice/.test(details) && /culprit/.test(details), details.match(/message[\s\S]{0,160}/)?.[0].replaceAll("\n", " ") ?? details.slice(-300));
check("with the arrow that leads to it", /preceding flows/i.test(details));
check("and the line of the culprit", /program\.py:\d+/.test(details));
await page.screenshot({ path: join(pictures, "perfetto-finding.png") });

// A query is typed where one searches, behind a colon. What went wrong with the import is told by the first number.
await page.keyboard.press("Escape");
await box.click();
await box.fill("");
await page.keyboard.type(":");
await page.waitForTimeout(500);
const slices = track => `(select count(*) from slice s join track t on s.track_id = t.id where t.name glob '${track}')`;
const problems = "(select count(*) from stats where severity in ('error', 'data_loss') and value != 0)";
await page.keyboard.type(`select 'is ' || ${problems} || ' problems ' || ${slices("fd *")} || ' slices ' || ${slices("Findings")} || ' findings ' || (select count(*) from flow) || ' flows' as said`);
await page.keyboard.press("Enter");
const answer = /is (\d+) problems (\d+) slices (\d+) findings (\d+) flows/;
await page.getByText(answer).first().waitFor({ timeout: 20000 }).catch(() => {});
await page.screenshot({ path: join(pictures, "perfetto-query.png") });
const told = (await body()).match(answer) ?? ["no answer"];
check("the import has no errors", told[1] === "0", told[0]);
check("a query finds slices, findings and flows", Number(told[2]) > 1000 && Number(told[3]) > 0 && Number(told[4]) > 0);
check("nothing broke", broken.length === 0, broken);
await browser.close();
server.close();
end();
