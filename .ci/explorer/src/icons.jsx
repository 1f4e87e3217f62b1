// Icons in the style of GraphiQL's.
const icon = (path) => (props) => (
  <svg height="1em" viewBox="0 0 20 20" fill="none" stroke="currentColor" strokeWidth="1.5" strokeLinecap="round" {...props}>
    {path}
  </svg>
);

export const ExamplesIcon = icon(<path d="M3 3h3v14H3zM8 3h3v14H8zM13.5 4l3-.8 3 13-3 .8z" />);
export const CostIcon = icon(<path d="M13.5 6.5C12.8 5.2 11.5 5 10 5c-2 0-3.5.9-3.5 2.5 0 3.5 7 1.5 7 5 0 1.6-1.5 2.5-3.5 2.5-1.800 0-3.100-.5-3.700-1.800M10 2.5v15" />);
export const LinkIcon = icon(<path d="M8.5 11.5a3.5 3.5 0 0 0 5 0l3-3a3.5 3.5 0 0 0-5-5l-1 1M11.5 8.5a3.5 3.5 0 0 0-5 0l-3 3a3.5 3.5 0 0 0 5 5l1-1" />);
