// A worker by the package node-gearman of the functions that the interoperation tests use: node_gearman_worker.js HOST PORT
//
// It can neither raise nor warn. It grabs once for each function, and after each job: so it runs several at once.
"use strict";
const fs = require("fs");
const Gearman = require("node-gearman");

const [host, port] = process.argv.slice(2);
const gearman = new Gearman(host, Number(port));
const functions = {
  upper: (payload, job) => job.end(payload.toString().toUpperCase()),
  fail: (payload, job) => job.error(),
  until: (payload, job) => {
    if (fs.existsSync(payload.toString())) job.end("done");
    else setTimeout(functions.until, 20, payload, job);
  },
};
// It gives no payload where there is none.
for (const [name, work] of Object.entries(functions)) gearman.registerWorker(name, (payload, job) => work(payload || "", job));
gearman.on("close", () => process.exit(1));
gearman.on("error", () => process.exit(1));
gearman.connect();
