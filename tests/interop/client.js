// Runs one version of phoenix.js through scenarios: node client.js <module> <url of the socket> <websocket or longpoll>
//
// Each scenario prints one line, {"scenario", "ok", "error"?}. Packages come from the folder in INTEROP_MODULES.

"use strict"

const { createRequire } = require("node:module")
const path = require("node:path")
const assert = require("node:assert/strict")

const [, , name, url, transport] = process.argv
const load = createRequire(path.join(process.env.INTEROP_MODULES, "package.json"))

// What a browser has: versions before 1.4 ask for `window`, and all of them look there for their transports.
globalThis.window = globalThis.self = globalThis
globalThis.WebSocket = load("ws")
globalThis.XMLHttpRequest = load("xhr2")

const { Socket, LongPoll, Presence } = load(name)
const LIMIT = 8000
const sockets = []

function connect(options = {}) {
  const given = transport === "longpoll" ? { transport: LongPoll } : {}
  const socket = new Socket(url, { reconnectAfterMs: () => 50, rejoinAfterMs: () => 50, timeout: 5000, ...given, ...options })
  sockets.push(socket)
  socket.connect()
  return socket
}

/** Wait for an event of a channel. */
const once = (channel, event) => new Promise(resolve => channel.on(event, resolve))

/** The outcome of a push: [status, response]. */
const outcome = push => new Promise(resolve => {
  for (const status of ["ok", "error", "timeout"]) push.receive(status, response => resolve([status, response]))
})

async function join(socket, topic, params = {}) {
  const channel = socket.channel(topic, params)
  const [status, response] = await outcome(channel.join())
  assert.equal(status, "ok", JSON.stringify(response))
  return [channel, response]
}

const bytes = text => new Uint8Array([...text].map(letter => letter.charCodeAt(0))).buffer
const text = buffer => String.fromCharCode(...new Uint8Array(buffer))

const scenarios = {
  async connect() {
    const socket = connect()
    await new Promise(resolve => socket.onOpen(resolve))
    assert.ok(socket.isConnected())
  },

  async join() {
    const socket = connect()
    const channel = socket.channel("rooms:join", { name: "Ann" })
    const welcome = once(channel, "welcome")
    assert.deepEqual(await outcome(channel.join()), ["ok", { joined: "join", name: "Ann" }])
    assert.deepEqual(await welcome, { topic: "join" })
  },

  async refused() {
    assert.deepEqual(await outcome(connect().channel("rooms:refused", {}).join()), ["error", { reason: "unauthorized" }])
  },

  async crashing_join() {
    assert.deepEqual(await outcome(connect().channel("rooms:crashing", {}).join()), ["error", { reason: "join crashed" }])
  },

  async no_such_topic() {
    assert.deepEqual(await outcome(connect().channel("nowhere:1", {}).join()), ["error", { reason: "unmatched topic" }])
  },

  async reply() {
    const [channel] = await join(connect(), "rooms:reply")
    const sent = { text: "grüße \u{1F426} \u2028", list: [1, 2.5, null, true], map: { a: {} } }
    assert.deepEqual(await outcome(channel.push("echo", sent)), ["ok", sent])
    const many = await Promise.all(Array.from({ length: 50 }, (_, n) => outcome(channel.push("echo", { n }))))
    assert.deepEqual(many, Array.from({ length: 50 }, (_, n) => ["ok", { n }]))
  },

  async large() {
    const [channel] = await join(connect(), "rooms:large")
    const sent = { text: "ä".repeat(100_000) }
    assert.deepEqual(await outcome(channel.push("echo", sent)), ["ok", sent])
  },

  async error_reply() {
    const [channel] = await join(connect(), "rooms:error")
    assert.deepEqual(await outcome(channel.push("fail", { n: 1 })), ["error", { reason: "no", sent: { n: 1 } }])
  },

  async broadcast() {
    const [[one], [two]] = await Promise.all([join(connect(), "rooms:all"), join(connect(), "rooms:all")])
    for (const [from, other] of [[one, two], [two, one]]) {
      const heard = Promise.all([once(from, "shout"), once(other, "shout")])
      from.push("shout", { by: from === one ? 1 : 2 })
      const expected = { by: from === one ? 1 : 2 }
      assert.deepEqual(await heard, [expected, expected])
      one.off("shout")
      two.off("shout")
    }
    let own = 0
    one.on("told", () => own++)
    const told = once(two, "told")
    one.push("tell", { secret: 1 })
    assert.deepEqual(await told, { secret: 1 })
    await outcome(one.push("echo", {})) // what was broadcast before it has come by now
    assert.equal(own, 0)
  },

  async two_topics() {
    const socket = connect()
    const [[one], [two]] = await Promise.all([join(socket, "rooms:first"), join(socket, "rooms:second")])
    let wrong = 0
    two.on("shout", () => wrong++)
    const heard = once(one, "shout")
    one.push("shout", { only: "first" })
    assert.deepEqual(await heard, { only: "first" })
    await outcome(two.push("echo", {}))
    assert.equal(wrong, 0)
  },

  async presence() {
    const names = state => Object.keys(state).sort()
    const watch = channel => { // the way of 1.2 and 1.3, which all have
      let state = {}, seen = () => {}
      channel.on("presence_state", whole => seen(state = Presence.syncState(state, whole)))
      channel.on("presence_diff", diff => seen(state = Presence.syncDiff(state, diff)))
      return until => new Promise(resolve => (seen = () => until(names(state)) && resolve(state))())
    }
    const one = connect().channel("rooms:present", { name: "Ann", present: "phone" })
    const ann = watch(one)
    assert.equal((await outcome(one.join()))[0], "ok")
    const first = await ann(list => list.join() === "Ann")
    assert.equal(first.Ann.metas.length, 1)
    assert.equal(first.Ann.metas[0].device, "phone")
    const two = connect().channel("rooms:present", { name: "Bob", present: "desk" })
    const bob = watch(two)
    assert.equal((await outcome(two.join()))[0], "ok")
    await Promise.all([ann(list => list.join() === "Ann,Bob"), bob(list => list.join() === "Ann,Bob")])
    two.leave()
    await ann(list => list.join() === "Ann")
  },

  async presence_object() { // from 1.4 on
    const channel = connect().channel("rooms:presence-object", { name: "Ann", present: "phone" })
    const presence = new Presence(channel)
    const synced = new Promise(resolve => presence.onSync(() => presence.list().length && resolve()))
    channel.join()
    await synced
    assert.deepEqual(presence.list(key => key), ["Ann"])
  },

  async leave() {
    const [watcher] = await join(connect(), "watch:all")
    const ended = new Promise(resolve => watcher.on("end", end => end.name === "leaver" && resolve(end)))
    const [channel] = await join(connect(), "rooms:leave", { name: "leaver" })
    const closed = new Promise(resolve => channel.onClose(() => resolve()))
    assert.equal((await outcome(channel.leave()))[0], "ok")
    await closed
    assert.equal((await ended).reason, "left")
  },

  async join_again_after_leave() {
    const socket = connect()
    const [channel] = await join(socket, "rooms:again")
    await outcome(channel.leave())
    const [other] = await join(socket, "rooms:again")
    assert.deepEqual(await outcome(other.push("echo", { n: 1 })), ["ok", { n: 1 }])
  },

  async crash() {
    const [channel] = await join(connect(), "rooms:crash")
    const failed = new Promise(resolve => channel.onError(resolve))
    const rejoined = once(channel, "welcome")
    channel.push("crash", {})
    await failed
    await rejoined
    assert.deepEqual(await outcome(channel.push("echo", { n: 1 })), ["ok", { n: 1 }])
  },

  async stop() {
    const [channel] = await join(connect(), "rooms:stop")
    const closed = new Promise(resolve => channel.onClose(resolve))
    assert.deepEqual(await outcome(channel.push("stop", {})), ["ok", { stopped: true }])
    await closed
  },

  async heartbeat() {
    const socket = connect({ heartbeatIntervalMs: 100 })
    let closed = 0
    socket.onClose(() => closed++)
    const answered = new Promise(resolve => {
      let count = 0
      socket.onMessage(message => {
        // onMessage sees messages of all topics; the payload says whether it went well
        if (message.topic === "phoenix" && message.event === "phx_reply" && message.payload.status === "ok" && ++count === 3) resolve()
      })
    })
    await answered
    assert.equal(closed, 0)
  },

  async reconnect() {
    const socket = connect()
    const [channel] = await join(socket, "rooms:reconnect")
    const rejoined = once(channel, "welcome")
    socket.conn.terminate() // as when the network goes away
    await rejoined
    assert.deepEqual(await outcome(channel.push("echo", { n: 1 })), ["ok", { n: 1 }])
  },

  async binary() { // from 1.6 on
    const [[one], [two]] = await Promise.all([join(connect(), "rooms:binary"), join(connect(), "rooms:binary")])
    const heard = Promise.all([once(one, "bytes"), once(two, "bytes"), once(one, "bytes:mine")])
    const [status, response] = await outcome(one.push("bytes", bytes("\x01\xfe{abc")))
    assert.equal(status, "ok")
    assert.equal(text(response), "cba{\xfe\x01")
    assert.deepEqual((await heard).map(text), ["\x00to all\xff", "\x00to all\xff", "\x00to one\xff"])
  },
}

async function run(scenario) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`did not end within ${LIMIT} ms`)), LIMIT)
  })
  try {
    await Promise.race([scenarios[scenario](), late])
    return { scenario, ok: true }
  } catch (error) {
    return { scenario, ok: false, error: String(error.stack || error) }
  } finally {
    clearTimeout(timer)
    for (const socket of sockets.splice(0)) socket.disconnect()
  }
}

async function main() {
  for (const scenario of process.argv.slice(5)) process.stdout.write(JSON.stringify(await run(scenario)) + "\n")
  process.exit(0)
}

main()
