// firefox.mjs ADDRESS TEXT...: the page at ADDRESS in Firefox, without a window. Prints as JSON what it says of each text,
// and the first words for a gap.

import puppeteer from "puppeteer-core";

const [address, ...texts] = process.argv.slice(2);
const browser = await puppeteer.launch({ browser: "firefox", executablePath: process.env.FIREFOX, headless: true });
try {
  const tab = await browser.newPage();
  tab.on("console", (message) => process.stderr.write(`console: ${message.text()}\n`));
  tab.on("requestfailed", (request) => process.stderr.write(`failed: ${request.url()} ${request.failure()?.errorText}\n`));
  await tab.goto(address);
  const body = async (name) => tab.$eval("body", (element, key) => element.dataset[key], name);
  const write = async (text) => {
    await tab.$eval("#text", (box, value) => {
      box.value = value;
      box.dispatchEvent(new Event("input"));
    }, text);
    await tab.waitForSelector(`body[data-shown="${await body("asked")}"]`, { timeout: 60_000 });
  };
  await tab.waitForSelector("body[data-shown]", { timeout: 120_000 }).catch(async (error) => {
    const page = await tab.$eval("body", (element) => JSON.stringify({ ...element.dataset, says: element.innerText }));
    throw new Error(`${error.message}: ${page}`);
  });
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
  process.stdout.write(JSON.stringify({ found, words, engine: await tab.$eval("#engine", (node) => node.textContent) }));
} finally {
  await browser.close();
}
