// The caller's token: the demo's, a pasted one, or that of a login with OpenID Connect (authorization code with PKCE).
// Tokens are kept in this page's memory only, never in a URL, in storage or in a link.

// A login's token is replaced this many seconds before it expires, or earlier by a third of its lifetime.
const MARGIN = 30;
// Bytes of a code verifier and of a state.
const RANDOM = 32;
// The form of a token in a header field (token68 in RFC 9110).
const TOKEN = /^[A-Za-z0-9\-._~+/]+=*$/;
// The page on which a login ends sends its parameters here.
const CHANNEL = "gateway-login";
// GraphiQL stores the last change of an editor half a second later.
const STORED_AFTER = 700;
const ENDED = "The login has ended. Log in again; your query is kept.";

// Events: `caller` when another caller or none is used from now on, `status` when anything shown has changed.
export class Credentials extends EventTarget {
  source = "none"; // or "demo", "pasted", "login"
  expiresAt; // in milliseconds; undefined if it is unknown
  problem = ""; // a sentence, while something is wrong
  #token;
  #refreshToken;
  #hasEnded = false; // whether a login has ended, and nothing has replaced it
  #seen = new Set(); // all tokens so far, of both kinds
  #metadata; // of the issuer
  #replacing; // a promise, while a login's token is being replaced
  #timer;
  #attempt; // the channel of a login that has not ended

  constructor({ token, login }) {
    super();
    this.login = login;
    if (token) this.#use("demo", token);
  }

  // The value of the header field; undefined without a token.
  async authorization() {
    if (this.source === "login" && this.#hasExpired()) await this.replace(this.#header());
    return this.#header();
  }

  // Whether a text has a token in it that is or was in use.
  isIn(text) {
    return [...this.#seen].some((token) => text.includes(token));
  }

  paste(text) {
    const token = text.trim().replace(/^bearer\s+/i, "");
    if (!TOKEN.test(token)) return this.#report("This is not a token: it has characters that no token has.");
    this.#use("pasted", token);
    this.#announce();
  }

  // What to do without a token, as a sentence.
  get need() {
    return this.#hasEnded ? ENDED : `A token is needed: ${this.login ? "log in or " : ""}paste one.`;
  }

  // Takes note of the status of a response to a request with this header field.
  judge(authorization, status) {
    if (authorization !== this.#header()) return; // another token is in use meanwhile
    if (status !== 401) return this.#report("");
    if (this.source === "login" && !this.#refreshToken) return this.#end();
    this.#report(authorization ? this.#rejection() : this.need);
  }

  // Opens the issuer's login in a window of its own, so that this page keeps its queries and its memory.
  async logIn() {
    if (!isSecureContext) return this.#report("A login needs https. Open this page with https, or on localhost.");
    const popup = open("about:blank", "gateway-login", "popup,width=500,height=700");
    if (!popup) return this.#report("The browser blocked the window of the login. Allow pop-ups for this page.");
    try {
      popup.opener = null;
      const { authorization_endpoint: endpoint } = await this.#discovered();
      const [verifier, state] = [random(), random()];
      const redirect = new URL("explorer/login", location.href).href;
      const url = new URL(endpoint);
      for (const [name, value] of Object.entries({
        response_type: "code",
        client_id: this.login.clientId,
        redirect_uri: redirect,
        scope: this.login.scope,
        state,
        code_challenge: await challenge(verifier),
        code_challenge_method: "S256",
      })) {
        url.searchParams.set(name, value);
      }
      this.#attempt?.close();
      const channel = (this.#attempt = new BroadcastChannel(CHANNEL));
      channel.onmessage = ({ data }) => {
        if (data.state !== state) return; // of another page's login
        channel.close();
        this.#finish(data, verifier, redirect);
      };
      popup.location.replace(url.href);
    } catch (error) {
      popup.close();
      this.#report(`The login failed: ${error.message}`);
    }
  }

  // Replaces a login's token; whether another one is in use than in this header field. Used by all requests at once.
  async replace(authorization) {
    if (this.source !== "login") return false;
    if (authorization === this.#header()) {
      this.#replacing ??= this.#refresh().finally(() => (this.#replacing = undefined));
      await this.#replacing;
    }
    return this.#header() !== undefined && this.#header() !== authorization;
  }

  // Forgets all tokens, after the issuer has been asked to revoke a login, by loading the page again: memory is new
  // then. GraphiQL has its tabs, which contain no token, in storage.
  async forget() {
    const [refreshToken, endpoint] = [this.#refreshToken, this.#metadata?.revocation_endpoint];
    const stored = new Promise((done) => setTimeout(done, STORED_AFTER));
    clearTimeout(this.#timer);
    if (refreshToken && endpoint) {
      const body = new URLSearchParams({ token: refreshToken, client_id: this.login.clientId });
      await fetch(endpoint, { method: "POST", body, credentials: "omit", signal: AbortSignal.timeout(3000) }).catch(() => {});
    }
    await stored;
    location.reload();
  }

  async #finish({ code, error, iss }, verifier, redirect) {
    try {
      if (iss && iss !== this.login.issuer) throw new Error("another issuer has responded.");
      if (!code) throw new Error(`the issuer responded with ${error ?? "no code"}.`);
      this.#accept(
        await this.#requestToken({ grant_type: "authorization_code", code, code_verifier: verifier, redirect_uri: redirect }),
      );
      this.#announce();
    } catch (failure) {
      this.#report(`The login failed: ${failure.message}`);
    }
  }

  async #refresh() {
    if (!this.#refreshToken) return;
    try {
      this.#accept(await this.#requestToken({ grant_type: "refresh_token", refresh_token: this.#refreshToken }));
    } catch (failure) {
      if (failure.isRefusal) this.#end(); // after another failure the next request tries again
    }
  }

  // Ends a login without a new page, so that the query is kept.
  #end() {
    clearTimeout(this.#timer);
    this.source = "none";
    this.#token = this.#refreshToken = this.expiresAt = undefined;
    this.#hasEnded = true;
    this.#report(ENDED);
  }

  #accept({ access_token: token, refresh_token: refreshToken, expires_in: seconds }) {
    if (!TOKEN.test(token ?? "")) throw new Error("the issuer sent no token.");
    this.#use("login", token);
    this.#refreshToken = refreshToken ?? this.#refreshToken;
    if (refreshToken) this.#seen.add(refreshToken);
    if (!(seconds > 0)) return;
    this.expiresAt = Date.now() + seconds * 1000;
    if (!this.#refreshToken) return;
    const early = Math.min(MARGIN, seconds / 3);
    this.#timer = setTimeout(() => this.replace(this.#header()), (seconds - early) * 1000);
  }

  async #requestToken(parameters) {
    const { token_endpoint: endpoint } = await this.#discovered();
    const body = new URLSearchParams({ ...parameters, client_id: this.login.clientId });
    const response = await fetch(endpoint, { method: "POST", body, credentials: "omit", cache: "no-store" });
    if (response.ok) return response.json();
    const { error } = await response.json().catch(() => ({}));
    const failure = new Error(`the issuer responded with ${error ?? response.status}.`);
    failure.isRefusal = response.status >= 400 && response.status < 500 && response.status !== 429;
    throw failure;
  }

  async #discovered() {
    if (this.#metadata) return this.#metadata;
    const { issuer } = this.login;
    const address = `${issuer.replace(/\/+$/, "")}/.well-known/openid-configuration`;
    const metadata = await (await fetch(address, { credentials: "omit" })).json();
    if (metadata.issuer !== issuer) throw new Error("the issuer's metadata name another issuer.");
    return (this.#metadata = metadata);
  }

  #use(source, token) {
    clearTimeout(this.#timer);
    if (source !== "login") this.#refreshToken = undefined;
    this.source = source;
    this.#hasEnded = false;
    this.#token = token;
    this.#seen.add(token);
    this.expiresAt = expiryOf(token);
    this.#report("");
  }

  #announce() {
    this.dispatchEvent(new Event("caller"));
  }

  #report(problem) {
    this.problem = problem;
    this.dispatchEvent(new Event("status"));
  }

  #rejection() {
    if (this.source === "login") return "The login can't be renewed at the moment. Try again; your query is kept.";
    const advice = `${this.login ? "Log in or paste" : "Paste"} another one; your query is kept.`;
    return this.#hasExpired()
      ? `The token expired at ${new Date(this.expiresAt).toLocaleTimeString()}. ${advice}`
      : `The token was rejected. ${advice}`;
  }

  #hasExpired() {
    return this.expiresAt !== undefined && this.expiresAt <= Date.now();
  }

  #header() {
    return this.#token && `Bearer ${this.#token}`;
  }
}

// The expiry of a JWT in milliseconds; undefined for other tokens.
function expiryOf(token) {
  try {
    const { exp } = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return exp > 0 ? exp * 1000 : undefined;
  } catch {
    return undefined;
  }
}

function random() {
  return encoded(crypto.getRandomValues(new Uint8Array(RANDOM)));
}

async function challenge(verifier) {
  return encoded(new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier))));
}

function encoded(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
