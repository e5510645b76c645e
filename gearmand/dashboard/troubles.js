// -- what is wrong --------------------------------------------------------------------

const BAD = 2, WARN = 1;
const RECENT_S = 300;
const LONG_WAIT_S = 300;
const STUCK_S = 30;

/* Each rule looks at one function, and at its failures of the last minutes: null, or how bad, in a word, and in a sentence. */
const RULES = [
  (each) => each.paused && each.waiting ? [WARN, "paused", plural(each.waiting, "job") + (each.waiting === 1 ? " waits" : " wait") + " until it is resumed"] : null,
  (each) => each.waiting && !each.workers && !each.paused ? [BAD, "no worker", plural(each.waiting, "job") + (each.waiting === 1 ? " waits" : " wait") + ", and nobody can do " + (each.waiting === 1 ? "it" : "them") + since_(each)] : null,
  (each) => {
    const full = Object.keys(each.limits).filter((priority) => each.limits[priority] && each.waiting + each.running + each.scheduled >= each.limits[priority]);
    return full.length ? [BAD, "full", "new jobs of " + full.join(", ") + " priority are refused: the limit of " + count(each.limits[full[0]]) + " is reached"] : null;
  },
  (each) => each.waiting && each.workers && !each.running && each.oldest_s > STUCK_S && !each.paused && !bounds(each) ? [BAD, "stuck", plural(each.waiting, "job") + " waiting, and none of " + plural(each.workers, "worker") + " takes one" + since_(each)] : null,
  (each, failures) => {
    if (!failures) return null;
    const often = each.lately.failed > each.lately.completed || (!each.completed && failures.length > 2);
    const why = shown(lastLine(lines(failures[0].data)));
    return [often ? BAD : WARN, "failing", plural(failures.length, "failure") + " in 5 minutes" + (why ? "; the latest: " + short(why, 160) : "")];
  },
  (each) => each.waiting && (each.running || (each.workers && bounds(each))) && each.oldest_s > LONG_WAIT_S ? [WARN, "slow", plural(each.waiting, "job") + " waiting, the oldest for " + duration(each.oldest_s) + "; " + plural(each.workers, "worker") + ", " + count(each.running) + " running" + bounds(each)] : null,
  (each) => each.buried ? [WARN, "buried", plural(each.buried, "job") + " used up all attempts"] : null,
];
/* What of its policy keeps jobs from workers. */
const bounds = ({ policy }) => (policy && policy.most_running ? "; at most " + count(policy.most_running) + " run at once" : "") + (policy && policy.rate ? "; " + rate(policy.rate) + " are given out" : "");
const since_ = (each) => (each.oldest_s === null ? "" : "; the oldest for " + duration(each.oldest_s));

const found = { key: "", list: [], words: new Map() };

/* All troubles, the worst first; and for each function the words that stand for its own. */
function troubles() {
  const [functions, failures, workers] = ["functions", "failures", "workers"].map((name) => feeds.get(name));
  const key = [functions, failures, workers].map((each) => each.version).join();
  if (key === found.key) return found;
  const failed = new Map();
  for (const each of failures.data || []) {
    if (each.epoch_s < nowS() - RECENT_S) break;
    const name = keyOf(each.function);
    failed.has(name) ? failed.get(name).push(each) : failed.set(name, [each]);
  }
  const list = [];
  for (const each of functions.data || []) {
    for (const rule of RULES) {
      const said = rule(each, failed.get(each.key));
      if (said) list.push({ key: said[1] + each.key, level: said[0], word: said[1], text: said[2], of: each, weight: each.oldest_s || 0 });
    }
  }
  list.push(...longRuns(workers.data || [], functions.data));
  list.sort((a, b) => b.level - a.level || b.weight - a.weight || (a.key < b.key ? -1 : 1));
  const words = new Map();
  for (const each of list) words.has(each.of.key) ? words.get(each.of.key).push(each) : words.set(each.of.key, [each]);
  return Object.assign(found, { key, list, words });
}

/* For each function the job that runs far longer than its jobs do. */
function* longRuns(workers, functions) {
  const longest = new Map();
  for (const worker of workers) {
    for (const job of worker.running) {
      const key = keyOf(job.function);
      if (job.since_s > LONG_WAIT_S && !(longest.has(key) && longest.get(key).since_s >= job.since_s)) longest.set(key, job);
    }
  }
  for (const [key, job] of longest) {
    const of = functions && functions.byKey.get(key);
    const mean = of && of.runs.count ? of.runs.sum_s / of.runs.count : 0;
    if (!of || job.since_s < 20 * mean) continue;
    const text = lines(job.handle) + " runs for " + duration(job.since_s) + " at " + shown(job.worker) + (mean ? "; " + duration(mean) + " is usual" : "");
    yield { key: "long run" + key, level: WARN, word: "long run", text, of, weight: job.since_s };
  }
}

const LEVELS = { 2: "bad", 1: "warn" };
const wordNode = (each) => h("span", { class: "word " + LEVELS[each.level], title: each.text }, each.word);
