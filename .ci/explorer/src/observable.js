import { useSyncExternalStore } from "react";

// A value that components show and others set.
export class Observable {
  #listeners = new Set();

  constructor(value) {
    this.value = value;
  }

  set(value) {
    this.value = value;
    for (const listener of this.#listeners) listener();
  }

  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };
}

export function useObservable(observable) {
  return useSyncExternalStore(observable.subscribe, () => observable.value);
}
