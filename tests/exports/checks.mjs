// What the scripts beside it say of what they looked at: a line for each check, and how many failed at the end.
export function checks(subject = "") {
  let failed = 0;
  const prefix = subject && `${subject}: `;
  return {
    check(name, good, told = "") {
      if (!good) failed++;
      console.log(`${good ? "ok     " : "FAILED "} ${prefix}${name}  ${typeof told === "string" ? told : JSON.stringify(told)}`);
    },
    /** Ends the process, with status 1 if a check failed. */
    end() {
      console.log(`${failed ? "FAILED" : "ok"}: ${failed} checks failed`);
      process.exit(failed ? 1 : 0);
    },
  };
}
