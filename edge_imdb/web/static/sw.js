// The service worker caches the page's own files when it is installed, and worker.mjs caches the bundles: both work offline.
// `edge-imdb web` writes the two lines that begin with const BUILD and const SHELL.
const BUILD = "";
const SHELL = [];
const PAGE = `edge-imdb-page-${BUILD}`;

self.addEventListener("install", (event) => {
  const fresh = SHELL.map((path) => new Request(path, { cache: "reload" }));
  event.waitUntil(caches.open(PAGE).then((cache) => cache.addAll(fresh)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const clear = async () => {
    for (const name of await caches.keys()) if (name.startsWith("edge-imdb-page-") && name !== PAGE) await caches.delete(name);
    await self.clients.claim();
  };
  event.waitUntil(clear());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== self.location.origin || url.searchParams.has("sha256")) return;
  event.respondWith(answer(event.request));
});

async function answer(request) {
  const page = await caches.open(PAGE);
  const kept = await page.match(request, { ignoreSearch: true });
  if (kept) return isolated(kept);
  return isolated(await fetch(request));
}

// A page may use threads only with these headers, which most static hosts don't send.
function isolated(response) {
  if (response.type === "opaque" || response.type === "error" || response.redirected) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
