import { costLine } from "../../../gateway/web/page/requests.js";
import { useObservable } from "./observable.js";

// What the last answer cost, and links to the documentation of its errors.
export function Cost({ answer }) {
  const result = useObservable(answer);
  const codes = new Set(result?.errors?.map(({ extensions }) => extensions?.code).filter(Boolean));
  const cost = costLine(result?.extensions);
  return (
    <div className={result?.extensions?.freshness?.stale ? "cost stale" : "cost"} role="status">
      {!result && "Run a query to see its cost in upstream calls and the age of its data."}
      {cost && <span>{cost}</span>}
      {codes.size > 0 && (
        <span>
          {"Errors: "}
          {[...codes].map((code) => (
            <a key={code} href={`explorer/errors#${code}`} target="_blank" rel="noreferrer">
              {code}
            </a>
          ))}
        </span>
      )}
    </div>
  );
}
