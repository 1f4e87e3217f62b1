// The page on which a login ends: it passes the code on to the page that began the login, which is of the same origin.
const { code, state, error, iss } = Object.fromEntries(new URLSearchParams(location.search));
history.replaceState(null, "", location.pathname);
new BroadcastChannel("gateway-login").postMessage({ code, state, error, iss });
close();
