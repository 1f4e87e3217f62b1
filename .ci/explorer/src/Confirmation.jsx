import { useEffect, useRef } from "react";
import { useObservable } from "./observable.js";

// Asks before a mutation is sent.
export function Confirmation({ question }) {
  const asked = useObservable(question);
  const dialog = useRef(null);
  const cancel = useRef(null);
  useEffect(() => {
    if (!asked) return;
    dialog.current.showModal();
    cancel.current.focus();
  }, [asked]);
  if (!asked) return null;
  return (
    <dialog ref={dialog} className="confirmation" aria-labelledby="confirmation" onClose={() => asked.resolve(dialog.current.returnValue === "send")}>
      <form method="dialog">
        <h2 id="confirmation">Send {asked.fields.join(", ")}?</h2>
        <p>This changes vehicles or sends commands to them.</p>
        {asked.variables && <pre tabIndex={0}>{JSON.stringify(asked.variables, null, 2)}</pre>}
        <button ref={cancel} value="cancel">
          Cancel
        </button>
        <button value="send">Send</button>
      </form>
    </dialog>
  );
}
