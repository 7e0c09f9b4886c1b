// firefox.mjs ADDRESS TEXT...: the page at ADDRESS in Firefox, without a window. Prints as JSON what it says of each text,
// the first words for a gap, and which files the first visit fetched, and the second.

import puppeteer from "puppeteer-core";

const [address, ...texts] = process.argv.slice(2);
const browser = await puppeteer.launch({ browser: "firefox", executablePath: process.env.FIREFOX, headless: true });
try {
  const tab = await browser.newPage();
  tab.on("console", (message) => process.stderr.write(`console: ${message.text()}\n`));
  tab.on("requestfailed", (request) => process.stderr.write(`failed: ${request.url()} ${request.failure()?.errorText}\n`));
  const fetched = [];
  tab.on("request", (request) => fetched.push(request.url()));
  await tab.goto(address);
  const body = async (name) => tab.$eval("body", (element, key) => element.dataset[key], name);
  const write = async (text) => {
    await tab.$eval("#text", (box, value) => {
      box.value = value;
      box.dispatchEvent(new Event("input"));
    }, text);
    await tab.waitForSelector(`body[data-shown="${await body("asked")}"]`, { timeout: 60_000 });
  };
  const shown = () => tab.waitForSelector("body[data-shown]", { timeout: 120_000 }).catch(async (error) => {
    const page = await tab.$eval("body", (element) => JSON.stringify({ ...element.dataset, says: element.innerText }));
    throw new Error(`${error.message}: ${page}`);
  });
  await shown();
  const found = [];
  for (const text of texts) {
    await write(text);
    found.push(await tab.$eval("#verdict", (verdict) => ({
      label: verdict.querySelector("#label").textContent,
      score: Number.parseFloat(verdict.querySelector("#score").textContent) / 100,
      text: verdict.querySelector("#marked").textContent,
      coloured: Object.fromEntries([...verdict.querySelectorAll("#marked [class]")].map((node) => [node.textContent, node.className])),
    })));
  }
  await write("This is a great [MASK]!");
  await tab.waitForSelector("#gaps button", { timeout: 120_000 });
  const words = await tab.$$eval("#gaps button", (buttons) => buttons.map((button) => button.firstChild.textContent.trim()));
  await tab.waitForFunction(() => document.querySelector("#engine").textContent.includes("Saved for offline use"), { timeout: 60_000 });
  const engine = await tab.$eval("#engine", (node) => node.textContent);
  const first = fetched.splice(0);
  await tab.reload();
  await shown();
  process.stdout.write(JSON.stringify({ found, words, engine, first, second: fetched }));
} finally {
  await browser.close();
}
