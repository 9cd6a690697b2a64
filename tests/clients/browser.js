// The status page in a real browser: headless Chromium, told what to do over a pipe, by the DevTools protocol.
//
//   node tests/clients/browser.js watch URL                      prints each state that the page shows, until it is ended
//   node tests/clients/browser.js shot URL FILE WIDTH SCHEME [STATE]
//                                                    a picture of the whole page, once it shows that state; SCHEME is light or dark
//
// CHROMIUM names the browser.
'use strict';

const { spawn } = require('node:child_process');
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');

// How often it is looked what the page shows.
const LOOK = 20;
// After so long the page has drawn all that it was told.
const DRAWN = 1500;

class Browser {
  constructor() {
    this.profile = mkdtempSync(join(tmpdir(), 'outrigger-page-'));
    const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--hide-scrollbars', '--remote-debugging-pipe', `--user-data-dir=${this.profile}`, 'about:blank'];
    this.child = spawn(process.env.CHROMIUM || 'chromium', flags, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'], detached: true });
    this.next = 1;
    this.waiting = new Map();
    let text = '';
    this.child.stdio[4].setEncoding('utf8').on('data', (more) => {
      const messages = (text + more).split('\0');
      text = messages.pop();
      for (const message of messages.map((one) => JSON.parse(one))) {
        const waiting = this.waiting.get(message.id);
        this.waiting.delete(message.id);
        if (message.error) waiting?.reject(new Error(message.error.message));
        else waiting?.resolve(message.result);
      }
    });
  }

  send(method, params = {}) {
    const id = this.next++;
    this.child.stdio[3].write(JSON.stringify({ id, method, params, sessionId: this.session }) + '\0');
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  async open(url, width, scheme) {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' });
    ({ sessionId: this.session } = await this.send('Target.attachToTarget', { targetId, flatten: true }));
    await this.send('Emulation.setDeviceMetricsOverride', { width, height: 800, deviceScaleFactor: 1, mobile: width < 600 });
    await this.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
    await this.send('Page.navigate', { url });
  }

  async ask(expression) {
    const { result } = await this.send('Runtime.evaluate', { expression, returnByValue: true });
    return result.value;
  }

  async picture(file) {
    const { cssContentSize: { width, height } } = await this.send('Page.getLayoutMetrics');
    const { data } = await this.send('Page.captureScreenshot', { captureBeyondViewport: true, clip: { x: 0, y: 0, width, height, scale: 1 } });
    writeFileSync(file, Buffer.from(data, 'base64'));
  }

  end() {
    // With all the processes that it has started, which are in its group.
    process.kill(-this.child.pid, 'SIGKILL');
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  }
}

const pause = (time) => new Promise((go) => setTimeout(go, time));

async function watch(browser, url) {
  await browser.open(url, 1280, 'light');
  for (let before; ; await pause(LOOK)) {
    // What is read, not what is meant.
    const state = await browser.ask("document.getElementById('state')?.innerText ?? ''");
    if (state && state !== before) console.log((before = state));
  }
}

async function shot(browser, url, file, width, scheme, state) {
  await browser.open(url, Number(width), scheme);
  await pause(DRAWN);
  while (state && (await browser.ask("document.getElementById('state').innerText")) !== state) await pause(LOOK);
  const wide = await browser.ask('document.documentElement.scrollWidth');
  await browser.picture(file);
  console.log(`${file}: ${await browser.ask("document.getElementById('state').innerText")}, ${wide} wide`);
  if (wide > Number(width)) throw new Error(`the page is ${wide} wide, and scrolls sideways`);
}

async function main([what, ...rest]) {
  const browser = new Browser();
  const end = () => { browser.end(); process.exit(1); };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, end);
  // Whoever started us holds the other end, and lets go of it when it ends.
  if (what === 'watch') process.stdin.on('end', end).resume();
  try {
    await { watch, shot }[what](browser, ...rest);
  } finally {
    browser.end();
  }
}

main(process.argv.slice(2)).then(() => process.exit(0), (error) => {
  console.error(error.message);
  process.exit(1);
});
