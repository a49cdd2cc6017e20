// Opens exported pages in headless Chromium, and does what a person does with them:
// node browser.mjs FOLDER-OF-NODE-MODULES CHROMIUM PAGE SCREENSHOTS
//
// Prints a line for each check; ends with status 1 if one failed. Times are told, and what is held against the targets is
// the processor's time of the page, since machines are busy; with STRICT set it is the clock's.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { createRequire } from "node:module";
import { checks } from "./checks.mjs";

const [modules, executablePath, file, pictures] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, "x"))("playwright-core");
mkdirSync(pictures, { recursive: true });
const strict = Boolean(process.env.STRICT);

const { check, end } = checks();

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1400, height: 850 }, colorScheme: "light" });
const page = await context.newPage();
// The processor's time, which does not depend on what else the machine does; of the page's own thread.
const devtools = await context.newCDPSession(page);
await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
const busy = async () => (await devtools.send("Performance.getMetrics")).metrics.find(metric => metric.name === "TaskDuration").value * 1000;
const complaints = [], requests = [];
page.on("pageerror", error => complaints.push(String(error)));
page.on("console", message => { if (message.type() === "error" || message.type() === "warning") complaints.push(message.text()); });
page.on("dialog", dialog => { complaints.push("dialog " + dialog.message()); dialog.dismiss(); });
page.on("request", request => { if (!request.url().startsWith("file:")) requests.push(request.url()); });

await page.goto(pathToFileURL(file).href, { waitUntil: "commit", timeout: 120000 });
await page.waitForFunction(() => typeof state !== "undefined" && state.ready, null, { timeout: 120000 });
const about = await page.evaluate(() => ({
  loaded: state.loadedMs, bars: state.lanes.reduce((sum, lane) => sum + lane.bars.length, 0), lanes: state.lanes.length,
  findings: state.findings.length, title: document.title, processes: document.querySelectorAll("#processes li").length,
}));
check("it loads", about.bars > 0, about);
const work = await busy();
check("it loads in a second", (strict ? about.loaded : work) <= 1000, `${about.bars} generations in ${Math.round(about.loaded)} ms, ${Math.round(work)} ms of them at work`);
check("findings are listed", about.findings > 0 && await page.locator("#findings li").count() > 0);
check("the tree of processes has its branches", await page.locator("#processes .tree").count() > 0);
await page.screenshot({ path: join(pictures, "light.png") });

// A click on a finding shows its timeline with stacks.
await page.locator("#findings li").first().click();
const details = await page.locator("#details").innerText();
check("a click on a finding tells it", /close/.test(details) && /program\.py:\d+/.test(details), details.slice(0, 120));
await page.screenshot({ path: join(pictures, "finding.png") });

// Zoom by wheel and keys.
const span = () => page.evaluate(() => state.t1 - state.t0);
await page.evaluate(() => fit());
const whole = await span();
await page.mouse.move(700, 400);
await page.keyboard.down("Control");
await page.mouse.wheel(0, -600);
await page.keyboard.up("Control");
await page.waitForTimeout(100);
const closer = await span();
check("Ctrl and the wheel zoom", closer < whole / 2, `${whole} to ${closer} ns`);
await page.locator("canvas").focus();
await page.keyboard.press("+");
await page.waitForTimeout(50);
check("+ zooms", await span() < closer);
const before = await page.evaluate(() => state.t0);
await page.keyboard.press("ArrowRight");
await page.waitForTimeout(50);
check("arrows move", await page.evaluate(() => state.t0) > before);
await page.keyboard.press("0");
await page.waitForTimeout(50);
check("0 shows all", Math.abs(await span() - whole) < whole * 0.1);
await page.keyboard.press("n");
check("n goes to a finding", await page.evaluate(() => Boolean(state.picked && state.picked.rule)));

// A click on a bar shows who opened and closed it.
const point = await page.evaluate(() => {
  const lane = state.lanes.find(lane => lane.bars.some(bar => bar.object === "/dev/zero")), bar = lane.bars.find(bar => bar.object === "/dev/zero");
  show(lane, bar.from); const around = (Math.min(bar.to, state.last) - bar.from) * 2; state.t0 = bar.from - around; state.t1 = bar.from + around * 2;
  draw(); const box = canvas.getBoundingClientRect();
  return { x: box.left + x(bar.from) + (x(bar.to) - x(bar.from)) / 2, y: box.top + lane.y - state.top + AXIS + LANE / 2 };
});
await page.mouse.click(point.x, point.y);
const bar = await page.locator("#details").innerText();
check("a click on a bar tells its life", /\/dev\/zero/.test(bar) && /opened/.test(bar) && /program\.py/.test(bar), bar.slice(0, 120));
await page.screenshot({ path: join(pictures, "bar.png") });

// Search; hostile names are text.
await page.keyboard.press("/");
await page.keyboard.type("onerror");
await page.waitForTimeout(600);
const hits = await page.evaluate(() => state.lanes.filter(lane => lane.hit).length);
check("search finds the hostile name", hits >= 1 && hits < about.lanes, `${hits} lanes`);
const shown = await page.evaluate(() => {
  const names = [];
  for (const lane of state.lanes) for (const bar of lane.bars) if (/onerror|owned|gpj|invalid|calc|break|jndi|<!--|(\.\/){9}/.test(bar.object)) { pickBar(bar); names.push($("details").textContent); }
  return { count: names.length, longest: Math.max(...names.map(name => name.length)), elements: document.querySelectorAll("img, #details script, iframe").length,
    bad: names.filter(name => /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\u200b]/.test(name)).length };
});
check("hostile names are shown as text", shown.count >= 8 && shown.elements === 0 && shown.bad === 0, shown);
check("a path of thousands of bytes is shown", shown.longest > 3500, `${shown.longest} characters`);
check("the title is ours", await page.title() === about.title && about.title !== "owned", about.title);
await page.screenshot({ path: join(pictures, "search.png") });
await page.locator("#search").fill("");
await page.waitForTimeout(600);

// Dark.
await page.locator("#theme").click();
await page.evaluate(() => fit());
await page.waitForTimeout(100);
check("the dark theme is dark", await page.evaluate(() => { draw(); const [r, g, b] = pen.getImageData(5, 5, 1, 1).data; return r + g + b < 200; }));
await page.screenshot({ path: join(pictures, "dark.png") });
await page.locator("#theme").click();

// Frames while everything is in view and the picture moves.
for (const [name, prepare] of [["all of it", () => fit()], ["a tenth", () => { fit(); zoom(.1); }], ["a thousandth", () => { fit(); zoom(.001); }]]) {
  const idle = await busy();
  const rate = await page.evaluate(async source => {
    (0, eval)(source)();
    const began = performance.now(); let frames = 0, drawing = 0;
    while (performance.now() - began < 2000) {
      await new Promise(requestAnimationFrame);
      pan(frames % 40 < 20 ? .004 : -.004);
      const at = performance.now(); draw(); drawing += performance.now() - at; frames++;
    }
    return { frames: frames / (performance.now() - began) * 1000, count: frames, draw: drawing / frames };
  }, String(prepare)).catch(error => ({ frames: 0, count: 1, draw: 0, error: String(error) }));
  const each = (await busy() - idle) / rate.count;
  check(`panning over ${name}`, strict ? rate.frames >= 30 : each <= 33, `${rate.frames.toFixed(0)} frames a second, ${rate.draw.toFixed(1)} ms to draw one, ${each.toFixed(1)} ms at work for one ${rate.error ?? ""}`);
}

// On paper, and on a narrow screen.
await page.emulateMedia({ media: "print" });
await page.screenshot({ path: join(pictures, "print.png") });
await page.emulateMedia({ media: "screen" });
await page.setViewportSize({ width: 700, height: 800 });
await page.waitForTimeout(200);
await page.screenshot({ path: join(pictures, "narrow.png") });

const policy = await page.locator("meta[http-equiv]").getAttribute("content");
check("its policy forbids the network", policy.includes("default-src 'none'"));
check("nothing was asked of the network", requests.length === 0, requests.slice(0, 3));
check("nothing was complained about", complaints.length === 0, complaints.slice(0, 3));
await browser.close();
end();
