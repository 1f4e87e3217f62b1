import { useEffect, useReducer, useState } from "react";

const SOURCES = { none: "No token", demo: "Demo token", pasted: "Pasted token", login: "Logged in" };

// Who is calling: the source of the token, and what to do about it.
export function Caller({ credentials }) {
  const [, update] = useReducer((count) => count + 1, 0);
  const [isPasting, setPasting] = useState(false);
  useEffect(() => {
    credentials.addEventListener("status", update);
    return () => credentials.removeEventListener("status", update);
  }, [credentials]);

  const { source, expiresAt, problem, login } = credentials;
  const until = source === "pasted" && expiresAt ? `, valid until ${new Date(expiresAt).toLocaleTimeString()}` : "";
  const paste = (event) => {
    event.preventDefault();
    credentials.paste(new FormData(event.target).get("token"));
    setPasting(false);
  };
  return (
    <header className="caller">
      <h1>Fleet</h1>
      <span role="status">
        {SOURCES[source]}
        {until}
      </span>
      {login && source !== "login" && <button onClick={() => credentials.logIn()}>Log in</button>}
      {source === "login" && <button onClick={() => credentials.forget()}>Log out</button>}
      {source === "pasted" && <button onClick={() => credentials.forget()}>Forget token</button>}
      {source !== "login" && (
        <button aria-expanded={isPasting} onClick={() => setPasting(!isPasting)}>
          Paste token
        </button>
      )}
      {isPasting && (
        <form onSubmit={paste} autoComplete="off">
          <input name="token" type="password" aria-label="Token" placeholder="Token" required autoFocus />
          <button>Use</button>
        </form>
      )}
      <p role="alert">{problem}</p>
    </header>
  );
}
