// Tests of phoenix.js, in the order of its chapters: `node --test tests/phoenix.test.mjs`.
//
// Nothing here waits: time is a clock that a test moves, and the server is a transport that a test
// speaks through. `connected()` gives both, with a socket whose connection is open.

import assert from "node:assert/strict"
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { test } from "node:test"
import vm from "node:vm"

import Phoenix, { Ajax, Channel, LongPoll, Presence, Serializer, Socket } from "../phoenix.js"

const SOURCE = new URL("../phoenix.js", import.meta.url)

// ------------------------------------------------------------------------------------------
// The fakes
// ------------------------------------------------------------------------------------------

/** A clock that stands still until `tick`. */
function makeClock() {
  let now = 0
  let last = 0
  const timers = new Map()
  return {
    setTimeout(callback, ms) {
      timers.set(++last, { at: now + ms, callback })
      return last
    },
    clearTimeout: id => timers.delete(id),
    Date: { now: () => now },
    pending: () => timers.size,
    /** Let *ms* milliseconds pass, running what becomes due in the order of time. */
    tick(ms) {
      const end = now + ms
      for (;;) {
        const due = [...timers].filter(([, { at }]) => at <= end).sort(([a, x], [b, y]) => x.at - y.at || a - b)[0]
        if (!due) break
        timers.delete(due[0])
        now = due[1].at
        due[1].callback()
      }
      now = end
    },
  }
}

/** A class of transports, which remembers those made. The methods below `close` are the test's. */
function makeTransport(clock) {
  return class FakeTransport {
    static made = []
    readyState = 0
    bufferedAmount = 0
    sent = []
    answersClose = true

    constructor(url, protocols) {
      this.url = url
      this.protocols = protocols
      FakeTransport.made.push(this)
    }

    send(data) {
      assert.equal(this.readyState, 1, "sent while not open")
      this.sent.push(typeof data === "string" ? JSON.parse(data) : data)
    }

    close(code, reason) {
      if (this.readyState >= 2) return
      this.closedWith = [code, reason]
      this.readyState = 2
      if (this.answersClose) clock.setTimeout(() => this.drop(code ?? 1005, reason), 0)
    }

    open() {
      this.readyState = 1
      this.onopen({})
      return this
    }

    receive(join_ref, ref, topic, event, payload) {
      this.onmessage({ data: JSON.stringify([join_ref, ref, topic, event, payload]) })
    }

    /** Answer the message *sent* (the last one) with *status*. */
    reply(status, response = {}, [join_ref, ref, topic] = this.sent.at(-1)) {
      this.receive(join_ref, ref, topic, "phx_reply", { status, response })
    }

    drop(code = 1006, reason = "") {
      this.readyState = 3
      this.onclose({ code, reason, wasClean: code === 1000 })
    }

    fail(error = new Error("refused")) {
      this.readyState = 3
      this.onerror(error)
      this.onclose({ code: 1006, reason: "", wasClean: false })
    }

    events() {
      return this.sent.map(([, , topic, event]) => `${topic} ${event}`)
    }
  }
}

function setup(options = {}, endPoint = "ws://host/ws") {
  const clock = makeClock()
  const Transport = makeTransport(clock)
  const log = []
  const socket = new Socket(endPoint, {
    transport: Transport,
    timers: clock,
    logger: (kind, text, data) => log.push({ kind, text, data }),
    ...options,
  })
  return { clock, Transport, socket, log, last: () => Transport.made.at(-1) }
}

function connected(options) {
  const env = setup(options)
  env.socket.connect()
  env.last().open()
  return env
}

/** An open socket with one joined channel. */
function joined(topic = "rooms:lobby", options) {
  const env = connected(options)
  const channel = env.socket.channel(topic, { token: "t" })
  channel.join()
  env.last().reply("ok")
  return { ...env, channel }
}

/** Calls of a callback, as a list of their arguments. */
function recorder() {
  const calls = []
  const record = (...values) => {
    calls.push(values)
  }
  return Object.assign(record, { calls, values: () => calls.map(([first]) => first) })
}

/** Run *body* with some globals replaced, and put them back. */
async function withGlobals(globals, body) {
  const before = Object.keys(globals).map(name => [name, Object.getOwnPropertyDescriptor(globalThis, name)])
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true })
  }
  try {
    await body()
  } finally {
    for (const [name, descriptor] of before) {
      if (descriptor) Object.defineProperty(globalThis, name, descriptor)
      else delete globalThis[name]
    }
  }
}

/** Let all promises that can settle do so. */
const settle = () => new Promise(resolve => setImmediate(resolve))

const buffer = (...bytes) => new Uint8Array(bytes).buffer
const bytes = data => [...new Uint8Array(data)]
const plain = value => JSON.parse(JSON.stringify(value))

// ------------------------------------------------------------------------------------------
// The file: script, require, import
// ------------------------------------------------------------------------------------------

const NAMES = ["Ajax", "Channel", "LongPoll", "LongPoller", "Presence", "Push", "Serializer", "Socket"]

test("a script tag gives the global Phoenix, and no other name", () => {
  const page = vm.createContext({})
  vm.runInContext(readFileSync(SOURCE, "utf8"), page)
  assert.deepEqual(Object.keys(page), ["Phoenix"])
  assert.deepEqual(Object.keys(page.Phoenix).sort(), NAMES)
})

test("a script tag works twice, and beside an element with the id module", () => {
  const page = vm.createContext({ module: {} })
  vm.runInContext(readFileSync(SOURCE, "utf8"), page)
  vm.runInContext(readFileSync(SOURCE, "utf8"), page)
  assert.equal(typeof page.Phoenix.Socket, "function")
})

test("a browser module imports it for the global Phoenix", async () => {
  await withGlobals({ Phoenix: undefined }, async () => {
    await import(`data:text/javascript;base64,${readFileSync(SOURCE).toString("base64")}`)
    assert.equal(typeof globalThis.Phoenix.Socket, "function")
  })
})

test("require and import give the same object, and its names one by one", () => {
  assert.equal(createRequire(import.meta.url)("../phoenix.js"), Phoenix)
  assert.deepEqual(Object.keys(Phoenix).sort(), NAMES)
  assert.equal(Phoenix.Socket, Socket)
  assert.equal(Phoenix.Channel, Channel)
  assert.equal(Phoenix.LongPoller, LongPoll)
})

// ------------------------------------------------------------------------------------------
// Messages
// ------------------------------------------------------------------------------------------

const encode = message => Serializer.encode(message, data => data)
const decode = data => Serializer.decode(data, message => message)

test("a message is a JSON array of join_ref, ref, topic, event and payload", () => {
  const message = { join_ref: "1", ref: "2", topic: "t", event: "e", payload: { é: 1 } }
  assert.equal(encode(message), '["1","2","t","e",{"é":1}]')
  assert.deepEqual(decode(encode(message)), message)
})

test("a message without refs has null in their places", () => {
  const message = { topic: "phoenix", event: "heartbeat", payload: {}, ref: "5" }
  assert.equal(encode(message), '[null,"5","phoenix","heartbeat",{}]')
})

test("a text that is not an array of five says what was expected", () => {
  const expected = /expected \[join_ref, ref, topic, event, payload\], got: \{"topic":"t"\}/
  assert.throws(() => decode('{"topic":"t"}'), expected)
  assert.throws(() => decode("[1,2]"), /expected/)
})

test("a binary push is a kind, four lengths, four fields and the bytes", () => {
  const frame = encode({ join_ref: "0", ref: "1", topic: "top", event: "ev", payload: buffer(1, 255) })
  assert.deepEqual(bytes(frame), [0, 1, 1, 3, 2, ...Buffer.from("01topev"), 1, 255])
})

test("the lengths of a binary push count bytes, not characters", () => {
  const frame = encode({ join_ref: "1", ref: "2", topic: "tópico", event: "évé", payload: buffer() })
  assert.deepEqual(bytes(frame), [0, 1, 1, 7, 5, ...Buffer.from("12tópicoévé")])
})

test("a typed array is sent as the part of its buffer that it shows", () => {
  const payload = new Uint8Array(buffer(9, 1, 2, 9), 1, 2)
  const frame = encode({ join_ref: "1", ref: "2", topic: "t", event: "e", payload })
  assert.deepEqual(bytes(frame), [0, 1, 1, 1, 1, ...Buffer.from("12te"), 1, 2])
})

test("a field of a binary push takes 255 bytes, and not one more", () => {
  const message = { join_ref: "1", ref: "2", topic: "t".repeat(255), event: "e", payload: buffer() }
  assert.equal(bytes(encode(message))[3], 255)
  assert.throws(
    () => encode({ ...message, topic: "é".repeat(128) }),
    /unable to convert topic to binary: must be less than or equal to 255 bytes, but is 256 bytes/
  )
})

for (const [kind, head, expected] of [
  ["push", [0, 1, 3, 2, ...Buffer.from("7topev")], { join_ref: "7", ref: null, topic: "top", event: "ev" }],
  ["broadcast", [2, 3, 2, ...Buffer.from("topev")], { join_ref: null, ref: null, topic: "top", event: "ev" }],
]) {
  test(`a binary ${kind} is read, with its bytes as the payload`, () => {
    const { payload, ...fields } = decode(buffer(...head, 1, 0, 255))
    assert.deepEqual(fields, expected)
    assert.deepEqual(bytes(payload), [1, 0, 255])
    assert.ok(payload instanceof ArrayBuffer)
  })
}

test("a binary reply is read as a phx_reply with status and response", () => {
  const message = decode(buffer(1, 1, 2, 3, 2, ...Buffer.from("712topok"), 5, 6))
  const { payload, ...fields } = message
  assert.deepEqual(fields, { join_ref: "7", ref: "12", topic: "top", event: "phx_reply" })
  assert.equal(payload.status, "ok")
  assert.deepEqual(bytes(payload.response), [5, 6])
})

test("a binary message of an unknown kind is an error that names it", () => {
  assert.throws(() => decode(buffer(9, 0, 0)), /kind 0, 1 or 2, got: 9/)
})

// ------------------------------------------------------------------------------------------
// Socket: end point and options
// ------------------------------------------------------------------------------------------

const urlOf = (endPoint, options) => new Socket(endPoint, { transport: class {}, ...options }).endPointURL()

test("a path is an end point on the page's host, by wss when the page came by https", async () => {
  await withGlobals({ location: { protocol: "http:", host: "example.com:4000" } }, () => {
    assert.equal(urlOf("/ws"), "ws://example.com:4000/ws/websocket?vsn=2.0.0")
    assert.equal(urlOf("//other.com/ws"), "ws://other.com/ws/websocket?vsn=2.0.0")
  })
  await withGlobals({ location: { protocol: "https:", host: "example.com" } }, () => {
    assert.equal(urlOf("/ws"), "wss://example.com/ws/websocket?vsn=2.0.0")
    assert.equal(urlOf("//other.com/ws"), "wss://other.com/ws/websocket?vsn=2.0.0")
  })
})

test("a whole URL is used as given", () => {
  assert.equal(urlOf("ws://example.com/ws"), "ws://example.com/ws/websocket?vsn=2.0.0")
  assert.equal(urlOf("wss://example.com/chat/"), "wss://example.com/chat/websocket?vsn=2.0.0")
})

test("a path without a page is an error that says what to give instead", () => {
  assert.throws(() => urlOf("/ws"), /relative to a page, and there is none. Give a whole URL/)
})

test("params are in the query, nested, escaped, and asked for again at each connect", () => {
  const url = params => urlOf("ws://h/ws", { params }).replace("ws://h/ws/websocket?", "")
  assert.equal(url({ token: "a b&c" }), "token=a%20b%26c&vsn=2.0.0")
  assert.equal(decodeURIComponent(url({ user: { id: 1, tags: { a: "b" } } })), "user[id]=1&user[tags][a]=b&vsn=2.0.0")
  assert.equal(url({ none: null, gone: undefined, zero: 0, no: false }), "zero=0&no=false&vsn=2.0.0")
  let visits = 0
  const socket = new Socket("ws://h/ws", { transport: class {}, params: () => ({ visits: ++visits }) })
  socket.endPointURL()
  assert.match(socket.endPointURL(), /visits=2/)
})

test("vsn is an option", () => {
  assert.equal(urlOf("ws://h/ws", { vsn: "1.0.0" }), "ws://h/ws/websocket?vsn=1.0.0")
})

test("the options have the defaults of the Phoenix client", () => {
  const socket = new Socket("ws://h/ws", { transport: class {} })
  assert.equal(socket.timeout, 10000)
  assert.equal(socket.heartbeatIntervalMs, 30000)
  assert.equal(socket.longpollerTimeout, 20000)
  assert.equal(socket.binaryType, "arraybuffer")
  assert.deepEqual([1, 2, 3, 4, 99].map(socket.rejoinAfterMs), [1000, 2000, 5000, 10000, 10000])
  assert.deepEqual(
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99].map(socket.reconnectAfterMs),
    [10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000, 5000]
  )
})

test("the default transport is WebSocket, and LongPoll where there is none", async () => {
  class WebSocket {}
  await withGlobals({ WebSocket }, () => assert.equal(new Socket("/ws").transport, WebSocket))
  await withGlobals({ WebSocket: undefined }, () => assert.equal(new Socket("/ws").transport, LongPoll))
})

test("the transport is told the binary type, and the token as a subprotocol", () => {
  const { socket, last } = setup({ authToken: () => "tök?n>" })
  socket.connect()
  assert.equal(last().binaryType, "arraybuffer")
  const [name, token] = last().protocols
  assert.equal(name, "phoenix")
  assert.match(token, /^base64url\.bearer\.phx\.[A-Za-z0-9_-]+$/)
  assert.equal(Buffer.from(token.replace("base64url.bearer.phx.", ""), "base64url").toString(), "tök?n>")
})

test("without a token there is no subprotocol", () => {
  const { socket, last } = setup()
  socket.connect()
  assert.equal(last().protocols, undefined)
})

test("encode and decode are options, and may take their time", async () => {
  const { socket, last } = connected({
    encode: (message, callback) => Promise.resolve().then(() => callback(JSON.stringify([message.event]))),
    decode: (data, callback) => Promise.resolve().then(() => callback({ topic: "t", event: data, payload: {} })),
  })
  const messages = recorder()
  socket.onMessage(messages)
  socket.push({ topic: "t", event: "hello", payload: {} })
  last().onmessage({ data: "hi" })
  await settle()
  assert.deepEqual(last().sent, [["hello"]])
  assert.deepEqual(messages.values(), [{ topic: "t", event: "hi", payload: {} }])
})

test("what is encoded or decoded too late for its connection is dropped", () => {
  const late = []
  const { socket, clock, last, Transport } = connected({
    encode: (message, callback) => late.push(() => callback('["late"]')),
    decode: (data, callback) => late.push(() => callback({ topic: "t", event: "late", payload: {} })),
  })
  const messages = recorder()
  socket.onMessage(messages)
  socket.push({ topic: "t", event: "late", payload: {} })
  last().onmessage({ data: "late" })
  last().drop()
  clock.tick(10)
  last().open()
  late.forEach(callback => callback())
  assert.equal(Transport.made.length, 2)
  assert.deepEqual(last().sent, [])
  assert.deepEqual(messages.calls, [])
})

test("encode and decode of the application are not for LongPoll", () => {
  const socket = new Socket("ws://h/ws", { transport: LongPoll, encode: () => {}, decode: () => {} })
  assert.equal(socket.encode, Serializer.encode)
  assert.equal(socket.decode, Serializer.decode)
})

test("debug logs to the console, and a logger gets kind, text and data", async () => {
  const logged = recorder()
  await withGlobals({ console: { log: logged } }, () => {
    new Socket("ws://h/ws", { transport: class {}, debug: true }).log("kind", "text", 7)
  })
  assert.deepEqual(logged.calls, [["kind: text", 7]])
  const { log } = joined()
  assert.ok(log.some(({ kind, text }) => kind === "push" && text === "rooms:lobby phx_join (1, 1)"))
  assert.ok(log.some(({ kind, text }) => kind === "receive" && text === "ok rooms:lobby phx_reply (1)"))
})

test("refs count from 1, and start anew where numbers end", () => {
  const { socket } = setup()
  assert.deepEqual([socket.makeRef(), socket.makeRef()], ["1", "2"])
  socket.ref = 2 ** 53
  assert.deepEqual([socket.makeRef(), socket.makeRef()], ["0", "1"])
})

// ------------------------------------------------------------------------------------------
// Socket: connecting and disconnecting
// ------------------------------------------------------------------------------------------

test("a new socket does not connect by itself", () => {
  const { Transport, socket } = setup()
  assert.equal(Transport.made.length, 0)
  assert.equal(socket.connectionState(), "closed")
})

test("the option autoConnect connects at once", () => {
  assert.equal(setup({ autoConnect: true }).Transport.made.length, 1)
})

test("connect is idempotent while connecting, connected and waiting to reconnect", () => {
  const { socket, last, Transport } = setup()
  socket.connect()
  socket.connect()
  last().open()
  socket.connect()
  last().drop()
  socket.connect()
  assert.equal(Transport.made.length, 1)
})

test("the state of the connection is that of the transport", () => {
  const { socket, last } = setup()
  socket.connect()
  const states = [0, 1, 2, 3, 7].map(state => {
    last().readyState = state
    return [socket.connectionState(), socket.isConnected()]
  })
  assert.deepEqual(states, [
    ["connecting", false],
    ["open", true],
    ["closing", false],
    ["closed", false],
    ["closed", false],
  ])
})

test("onOpen, onClose, onError and onMessage are called, and give a ref for off", () => {
  const { socket, last, Transport } = setup()
  const calls = []
  const listen = () => [
    socket.onOpen(() => calls.push("open")),
    socket.onMessage(({ event }) => calls.push(event)),
    socket.onError((error, transport, established) => calls.push([error, transport === Transport, established])),
    socket.onClose(({ code }) => calls.push(code)),
  ]
  const refs = listen()
  listen()
  assert.equal(new Set(refs).size, 4)
  socket.off(refs)
  socket.connect()
  last().open()
  last().receive(null, null, "t", "hello", {})
  last().onerror("broken")
  last().drop(1011)
  assert.deepEqual(calls, ["open", "hello", ["broken", true, 1], 1011])
})

test("a callback that is not there is ignored", () => {
  const { socket, last } = setup()
  socket.onOpen(undefined)
  socket.onClose(undefined)
  socket.onError(undefined)
  socket.connect()
  last().open()
  last().fail()
})

test("disconnect closes without reconnecting, and calls back", () => {
  const { socket, clock, last, Transport } = connected()
  const done = recorder()
  const closed = recorder()
  socket.onClose(closed)
  const transport = last()
  socket.disconnect(done, 1000, "bye")
  assert.deepEqual(transport.closedWith, [1000, "bye"])
  clock.tick(60000)
  assert.equal(done.calls.length, 1)
  assert.deepEqual(closed.values().map(({ code, reason }) => [code, reason]), [[1000, "bye"]])
  assert.equal(socket.conn, null)
  assert.equal(Transport.made.length, 1)
  assert.equal(clock.pending(), 0)
})

test("a callback may be null, as in the official client", () => {
  const { socket, clock, last } = setup()
  socket.onOpen(null)
  socket.onClose(null)
  const channel = socket.join("rooms", "lobby", null, null)
  last().open()
  assert.deepEqual(last().events(), ["rooms:lobby phx_join"])
  new Presence(channel).onSync(null)
  last().receive(channel.joinRef(), null, "rooms:lobby", "presence_state", {})
  socket.disconnect(null, 1000, "bye")
  clock.tick(60000)
  assert.deepEqual(last().closedWith, [1000, "bye"])
  socket.disconnect(null)
  const metas = [{ phx_ref: "1" }]
  assert.deepEqual(plain(Presence.syncDiff({}, { joins: { ann: { metas } }, leaves: {} }, null, null)), { ann: { metas } })
})

test("disconnect without code closes without code", () => {
  const { socket, last } = connected()
  socket.disconnect()
  assert.deepEqual(last().closedWith, [undefined, undefined])
})

test("disconnect calls back at once when there is no connection", () => {
  const done = recorder()
  setup().socket.disconnect(done)
  assert.equal(done.calls.length, 1)
})

test("close is the first Phoenix's name of disconnect", () => {
  const { socket, clock, last } = connected()
  const done = recorder()
  socket.close(done, 3000, "over")
  clock.tick(1000)
  assert.deepEqual(last().closedWith, [3000, "over"])
  assert.equal(done.calls.length, 1)
})

test("disconnect waits for what is still to be sent, but not for ever", () => {
  const { socket, clock, last } = connected()
  last().bufferedAmount = 1
  socket.disconnect()
  clock.tick(150 + 300 - 1)
  assert.equal(last().closedWith, undefined)
  last().bufferedAmount = 0
  clock.tick(1)
  assert.ok(last().closedWith)

  const other = connected()
  other.last().bufferedAmount = 1
  other.socket.disconnect()
  other.clock.tick(150 + 300 + 450 + 600)
  assert.ok(other.last().closedWith)
})

test("disconnect does not wait for ever for the transport to close", () => {
  const { socket, clock, last, channel } = joined()
  const done = recorder()
  const closed = recorder()
  socket.onClose(closed)
  last().answersClose = false
  socket.disconnect(done)
  clock.tick(150 + 300 + 450 + 600)
  assert.equal(done.calls.length, 1)
  assert.equal(closed.calls.length, 1)
  assert.equal(channel.state, "errored")
  last().drop() // too late to be of interest
  assert.equal(closed.calls.length, 1)
})

test("connect after disconnect makes a new connection at once, and channels rejoin on it", () => {
  const { socket, clock, last, Transport, channel } = joined()
  const opened = recorder()
  const closed = recorder()
  socket.onOpen(opened)
  socket.onClose(closed)
  const old = last()
  socket.disconnect()
  socket.connect()
  assert.equal(Transport.made.length, 2)
  assert.equal(channel.state, "errored")
  clock.tick(0)
  last().open()
  assert.equal(old.readyState, 3)
  assert.deepEqual(last().events(), ["rooms:lobby phx_join"])
  last().reply("ok")
  assert.equal(channel.state, "joined")
  clock.tick(5000)
  assert.equal(Transport.made.length, 2)
  assert.deepEqual([opened.calls.length, closed.calls.length], [1, 1])
})

test("a channel that waits for the next connection is not disturbed by the end of the last", () => {
  const { socket, clock, last } = connected()
  last().answersClose = false
  socket.disconnect()
  const channel = socket.channel("t")
  const errors = recorder()
  channel.onError(errors)
  channel.join()
  clock.tick(1500)
  assert.deepEqual(errors.calls, [])
  socket.connect()
  last().open()
  assert.deepEqual(last().events(), ["t phx_join"])
})

// ------------------------------------------------------------------------------------------
// Socket: reconnecting
// ------------------------------------------------------------------------------------------

test("a lost connection is made again, after a pause that grows until one opens", () => {
  const { clock, last, Transport } = connected()
  last().drop()
  for (const [i, ms] of [10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000, 5000].entries()) {
    clock.tick(ms - 1)
    assert.equal(Transport.made.length, 1 + i, `nothing before ${ms} ms`)
    clock.tick(1)
    assert.equal(Transport.made.length, 2 + i)
    last().fail()
  }
  clock.tick(5000)
  last().open()
  last().drop()
  clock.tick(10)
  assert.equal(Transport.made.length, 14)
})

test("reconnectAfterMs is an option: 5 seconds each time is how the first Phoenix did it", () => {
  const { clock, last, Transport } = connected({ reconnectAfterMs: () => 5000 })
  for (const made of [2, 3]) {
    last().drop()
    clock.tick(4999)
    assert.equal(Transport.made.length, made - 1)
    clock.tick(1)
    assert.equal(Transport.made.length, made)
  }
})

test("any close that we did not ask for reconnects, also a normal one: proxies close with 1000", () => {
  for (const code of [1000, 1001, 1006, 1012, 1013, 4000]) {
    const { clock, last, Transport } = connected()
    last().drop(code)
    clock.tick(10)
    assert.equal(Transport.made.length, 2, `after ${code}`)
  }
})

test("an error without a close, as Node 20 has it for a WebSocket that never opened, is the end all the same", () => {
  const { socket, clock, last, Transport } = setup()
  const closes = recorder()
  socket.onClose(closes)
  socket.connect()
  last().onerror(new Error("Received network error or non-101 status code."))
  clock.tick(10)
  assert.equal(Transport.made.length, 2)
  assert.deepEqual(closes.calls, [[{ code: 1006, reason: "", wasClean: false }]])
  last().open()
  assert.equal(socket.isConnected(), true)
})

test("an error of an open connection waits for the close that follows", () => {
  const { clock, last, Transport } = connected()
  last().onerror(new Error("too long"))
  clock.tick(60)
  assert.equal(Transport.made.length, 1)
  last().drop(1009)
  clock.tick(10)
  assert.equal(Transport.made.length, 2)
})

test("disconnect stops a reconnect that is due", () => {
  const { socket, clock, last, Transport } = connected()
  last().drop()
  socket.disconnect()
  clock.tick(60000)
  assert.equal(Transport.made.length, 1)
})

test("to disconnect while connecting is neither an error nor a reason to reconnect", () => {
  const { socket, clock, last, Transport } = setup()
  const errors = recorder()
  socket.onError(errors)
  socket.connect()
  socket.disconnect()
  last().onerror("closed before it opened")
  clock.tick(60000)
  assert.deepEqual(errors.calls, [])
  assert.equal(Transport.made.length, 1)
})

test("onClose may call connect without making a storm of connections", () => {
  const { socket, clock, last, Transport } = connected()
  socket.onClose(() => socket.connect())
  last().drop()
  assert.equal(Transport.made.length, 1)
  clock.tick(10)
  assert.equal(Transport.made.length, 2)
})

test("a late event of a former connection is ignored", () => {
  const { clock, last, Transport, channel } = joined()
  const old = last()
  old.drop()
  clock.tick(10)
  last().open()
  last().reply("ok")
  const hello = recorder()
  channel.on("hello", hello)
  old.receive(null, null, "rooms:lobby", "hello", {})
  old.drop()
  old.onerror("late")
  assert.equal(channel.state, "joined")
  assert.deepEqual(hello.calls, [])
  clock.tick(5000)
  assert.equal(Transport.made.length, 2)
})

// ------------------------------------------------------------------------------------------
// Socket: send buffer, heartbeat, ping
// ------------------------------------------------------------------------------------------

test("what is pushed without a connection is sent when it opens, in order", () => {
  const { socket, last } = setup()
  socket.connect()
  socket.push({ topic: "t", event: "one", payload: {}, ref: "1" })
  socket.push({ topic: "t", event: "two", payload: {}, ref: "2" })
  assert.equal(socket.sendBuffer.length, 2)
  last().open()
  assert.deepEqual(last().sent, [
    [null, "1", "t", "one", {}],
    [null, "2", "t", "two", {}],
  ])
  assert.equal(socket.sendBuffer.length, 0)
})

test("a heartbeat goes out every 30 seconds while the server answers", () => {
  const { clock, last, Transport } = connected()
  for (const ref of ["1", "2", "3"]) {
    clock.tick(30000)
    assert.deepEqual(last().sent.at(-1), [null, ref, "phoenix", "heartbeat", {}])
    last().reply("ok")
  }
  assert.equal(last().sent.length, 3)
  assert.equal(Transport.made.length, 1)
})

test("a heartbeat without answer closes, fails the channels and reconnects", () => {
  const { socket, clock, last, Transport, channel } = joined()
  const errors = recorder()
  const closed = recorder()
  channel.onError(errors)
  socket.onClose(closed)
  const dead = last()
  dead.answersClose = false
  clock.tick(30000 + 29999)
  assert.equal(dead.closedWith, undefined)
  clock.tick(1)
  assert.deepEqual(dead.closedWith, [1000, "heartbeat timeout"])
  assert.deepEqual(errors.values(), [{ source: "transport", reason: "heartbeat_timeout" }])
  assert.equal(closed.calls.length, 1)
  clock.tick(10)
  assert.equal(Transport.made.length, 2)
  last().open()
  assert.deepEqual(last().events(), ["rooms:lobby phx_join"])
})

test("an answer to another heartbeat is no answer", () => {
  const { clock, last } = connected()
  clock.tick(30000)
  last().receive(null, "77", "phoenix", "phx_reply", { status: "ok", response: {} })
  clock.tick(30000)
  assert.deepEqual(last().closedWith, [1000, "heartbeat timeout"])
})

test("a transport may have no need of heartbeats", () => {
  const { socket, clock, last } = setup()
  socket.connect()
  last().skipHeartbeat = true
  last().open()
  clock.tick(300000)
  assert.deepEqual(last().sent, [])
})

test("no heartbeat is sent after a connection is lost", () => {
  const { clock, last } = connected()
  last().drop()
  clock.tick(10)
  clock.tick(300000)
  assert.deepEqual(last().sent, [])
})

test("ping measures the way to the server and back, and is false without a connection", () => {
  const { socket, clock, last } = connected()
  const pong = recorder()
  assert.equal(socket.ping(pong), true)
  assert.deepEqual(last().events(), ["phoenix heartbeat"])
  clock.tick(42)
  last().reply("ok")
  last().reply("ok")
  assert.deepEqual(pong.calls, [[42]])
  last().drop()
  assert.equal(socket.ping(pong), false)
})

// ------------------------------------------------------------------------------------------
// Channel: joining
// ------------------------------------------------------------------------------------------

test("join sends phx_join with the params, and the channel goes from closed over joining to joined", () => {
  const { socket, last } = connected()
  const channel = socket.channel("rooms:lobby", { token: "secret" })
  const states = [channel.state]
  const ok = recorder()
  channel.join().receive("ok", ok)
  states.push(channel.state)
  assert.deepEqual(last().sent, [["1", "1", "rooms:lobby", "phx_join", { token: "secret" }]])
  last().reply("ok", { here: 3 })
  states.push(channel.state)
  assert.deepEqual(states, ["closed", "joining", "joined"])
  assert.deepEqual(ok.calls, [[{ here: 3 }]])
})

test("params may be a function, called at each join", () => {
  const { socket, clock, last } = connected()
  let joins = 0
  socket.channel("t", () => ({ joins: ++joins })).join()
  assert.deepEqual(last().sent.at(-1)[4], { joins: 1 })
  last().drop()
  clock.tick(10)
  last().open()
  assert.deepEqual(last().sent.at(-1)[4], { joins: 2 })
})

test("join can be called once", () => {
  const { channel } = joined()
  assert.throws(() => channel.join(), {
    message: "tried to join multiple times. 'join' can only be called a single time per channel instance",
  })
})

test("a join before the connection is sent once when it opens", () => {
  const { socket, last } = setup()
  socket.channel("t").join()
  socket.connect()
  last().open()
  assert.deepEqual(last().events(), ["t phx_join"])
})

test("a join is sent once, also when the first attempts to connect have failed", () => {
  const { socket, clock, last } = setup()
  const channel = socket.channel("t")
  channel.join()
  socket.connect()
  last().fail()
  assert.equal(channel.state, "errored")
  clock.tick(10)
  last().open()
  assert.deepEqual(last().events(), ["t phx_join"])
  last().reply("ok")
  assert.equal(channel.state, "joined")
})

test("a join that timed out without a connection is sent once when there is one", () => {
  const { socket, clock, last } = setup()
  const timeout = recorder()
  socket.channel("t").join().receive("timeout", timeout)
  clock.tick(10000)
  assert.equal(timeout.calls.length, 1)
  socket.connect()
  last().open()
  assert.deepEqual(last().events(), ["t phx_join"])
})

test("a refused join is repeated after 1, 2, 5, 10 and 10 seconds", () => {
  const { socket, clock, last } = connected()
  const refused = recorder()
  const channel = socket.channel("t")
  channel.join().receive("error", refused)
  for (const [i, seconds] of [1, 2, 5, 10, 10].entries()) {
    last().reply("error", { reason: "full" })
    assert.equal(channel.state, "errored")
    assert.deepEqual(refused.calls.at(-1), [{ reason: "full" }])
    const before = last().sent.length
    clock.tick(seconds * 1000 - 1)
    assert.equal(last().sent.filter(([, , topic]) => topic === "t").length, 1 + i)
    clock.tick(1)
    assert.ok(last().sent.length > before)
    assert.equal(channel.state, "joining")
  }
  last().reply("ok")
  assert.equal(channel.state, "joined")
})

test("rejoinAfterMs is an option", () => {
  const { socket, clock, last } = connected({ rejoinAfterMs: tries => tries * 7 })
  socket.channel("t").join()
  last().reply("error")
  clock.tick(7)
  last().reply("error")
  clock.tick(13)
  assert.equal(last().sent.length, 2)
  clock.tick(1)
  assert.equal(last().sent.length, 3)
})

test("a join without answer times out, leaves in case, and is repeated", () => {
  const { socket, clock, last } = connected()
  const timeout = recorder()
  const channel = socket.channel("t")
  channel.join(5000).receive("timeout", timeout)
  clock.tick(5000)
  assert.equal(timeout.calls.length, 1)
  assert.equal(channel.state, "errored")
  assert.deepEqual(last().sent.at(-1).slice(0, 4), ["1", "2", "t", "phx_leave"])
  clock.tick(1000)
  assert.deepEqual(last().sent.at(-1).slice(0, 4), ["3", "3", "t", "phx_join"])
  last().reply("ok")
  assert.equal(channel.state, "joined")
  clock.tick(20000)
  assert.equal(timeout.calls.length, 1)
})

test("a reply to a join that was given up does not join", () => {
  const { socket, clock, last } = connected()
  const channel = socket.channel("t")
  channel.join(5000)
  clock.tick(6000)
  last().receive("1", "1", "t", "phx_reply", { status: "ok", response: {} })
  assert.equal(channel.state, "joining")
})

test("joining a topic again leaves the older channel", () => {
  const { socket, last, channel } = joined("t")
  const closed = recorder()
  channel.onClose(closed)
  const second = socket.channel("t")
  second.join()
  assert.deepEqual(last().events(), ["t phx_join", "t phx_leave", "t phx_join"])
  assert.equal(channel.state, "closed")
  assert.equal(closed.calls.length, 1)
  assert.deepEqual(socket.channels, [second])
})

test("the close of an older join does not close the newer", () => {
  const { last, socket } = joined("t")
  const second = socket.channel("t")
  second.join()
  const joinRef = last().sent.at(-1)[0]
  last().receive(joinRef, joinRef, "t", "phx_reply", { status: "ok", response: {} })
  last().receive("1", "1", "t", "phx_close", {})
  assert.equal(second.state, "joined")
})

test("a channel that crashed on the server rejoins after a second", () => {
  const { clock, last, channel } = joined()
  const errors = recorder()
  channel.onError(errors)
  last().receive("1", "1", "rooms:lobby", "phx_error", { reason: "channel_crash" })
  assert.deepEqual(errors.calls, [[{ reason: "channel_crash" }]])
  assert.equal(channel.state, "errored")
  clock.tick(999)
  assert.equal(last().sent.length, 1)
  clock.tick(1)
  assert.deepEqual(last().sent.at(-1), ["2", "2", "rooms:lobby", "phx_join", { token: "t" }])
})

test("a channel that crashes while joining tries again", () => {
  const { socket, clock, last } = connected()
  const channel = socket.channel("t")
  channel.join()
  last().receive("1", "1", "t", "phx_error", {})
  assert.equal(channel.state, "errored")
  clock.tick(1000)
  last().reply("ok")
  assert.equal(channel.state, "joined")
})

test("a channel closed by the server is closed and forgotten", () => {
  const { socket, clock, last, channel } = joined()
  const closed = recorder()
  channel.onClose(closed)
  last().receive("1", "1", "rooms:lobby", "phx_close", {})
  assert.equal(closed.calls.length, 1)
  assert.equal(channel.state, "closed")
  assert.deepEqual(socket.channels, [])
  clock.tick(20000)
  last().drop()
  clock.tick(10)
  last().open()
  assert.deepEqual(last().sent, [])
})

test("all channels rejoin at once when a new connection opens", () => {
  const { socket, clock, last, channel } = joined("a")
  const other = socket.channel("b")
  other.join()
  last().reply("ok")
  const ok = recorder()
  other.joinPush.receive("other", ok)
  const errors = recorder()
  channel.onError(errors)
  last().drop()
  assert.deepEqual(errors.values(), [{ source: "transport", reason: "connection_closed" }])
  assert.equal(channel.state, "errored")
  clock.tick(10)
  last().open()
  assert.deepEqual(last().events(), ["a phx_join", "b phx_join"])
  for (const sent of [...last().sent]) last().reply("ok", {}, sent)
  assert.deepEqual([channel.state, other.state], ["joined", "joined"])
})

test("an error of the connection fails each channel once", () => {
  const { last, channel } = joined()
  const errors = recorder()
  channel.onError(errors)
  last().fail("broken")
  assert.deepEqual(errors.values(), [{ source: "transport", reason: "connection_error" }])
})

test("remove forgets a channel and its part in the socket's callbacks", () => {
  const { socket, clock, last, channel } = joined()
  socket.remove(channel)
  assert.deepEqual(socket.channels, [])
  last().drop()
  clock.tick(10)
  last().open()
  assert.deepEqual(last().sent, [])
})

// ------------------------------------------------------------------------------------------
// Channel: pushing
// ------------------------------------------------------------------------------------------

test("a push carries join_ref and a ref of its own, and receives the reply with that ref", () => {
  const { last, channel } = joined()
  const replies = recorder()
  const push = channel.push("new:msg", { body: "hi" })
  assert.equal(push.receive("ok", response => replies("ok", response)), push)
  push.receive("error", response => replies("error", response))
  assert.deepEqual(last().sent.at(-1), ["1", "2", "rooms:lobby", "new:msg", { body: "hi" }])
  last().receive("1", "99", "rooms:lobby", "phx_reply", { status: "ok", response: {} })
  assert.deepEqual(replies.calls, [])
  last().reply("ok", { id: 7 })
  last().reply("error")
  assert.deepEqual(replies.calls, [["ok", { id: 7 }]])
})

test("a reply has any status the server gives it", () => {
  const { last, channel } = joined()
  const replies = recorder()
  channel.push("buy").receive("error", replies).receive("sold_out", replies)
  last().reply("sold_out", { left: 0 })
  assert.deepEqual(replies.calls, [[{ left: 0 }]])
})

test("receive calls at once when the reply is already there", () => {
  const { last, channel } = joined()
  const push = channel.push("e")
  last().reply("ok", { n: 1 })
  const late = recorder()
  push.receive("ok", late)
  assert.deepEqual(late.calls, [[{ n: 1 }]])
})

test("a push without payload has an empty one, and a binary one is sent as bytes", () => {
  const { last, channel } = joined("t")
  channel.push("e")
  assert.deepEqual(last().sent.at(-1), ["1", "2", "t", "e", {}])
  channel.push("b", buffer(1, 2))
  assert.deepEqual(bytes(last().sent.at(-1)), [0, 1, 1, 1, 1, ...Buffer.from("13tb"), 1, 2])
})

test("a binary broadcast and a binary reply arrive as bytes", () => {
  const { last, channel } = joined("t")
  const got = recorder()
  channel.on("pic", got)
  channel.push("b", buffer(1)).receive("ok", got)
  last().onmessage({ data: buffer(2, 1, 3, ...Buffer.from("tpic"), 7) })
  last().onmessage({ data: buffer(1, 1, 1, 1, 2, ...Buffer.from("12tok"), 8) })
  assert.deepEqual(got.values().map(bytes), [[7], [8]])
})

test("a push before join is an error that says what to do", () => {
  const { socket } = connected()
  assert.throws(() => socket.channel("t").push("e"), {
    message: "tried to push 'e' to 't' before joining. Use channel.join() before pushing events",
  })
})

test("a push while joining waits, and goes out in order when joined", () => {
  const { socket, last } = connected()
  const channel = socket.channel("t")
  channel.join()
  channel.push("one")
  channel.push("two")
  assert.equal(last().sent.length, 1)
  last().reply("ok")
  assert.deepEqual(last().events(), ["t phx_join", "t one", "t two"])
  assert.deepEqual(last().sent.map(([joinRef]) => joinRef), ["1", "1", "1"])
})

test("a push that waits too long times out, and is not sent any more", () => {
  const { socket, clock, last } = connected()
  const timeout = recorder()
  const channel = socket.channel("t")
  channel.join(60000)
  channel.push("e", {}, 3000).receive("timeout", timeout)
  clock.tick(3000)
  assert.deepEqual(timeout.calls, [[{}]])
  last().reply("ok")
  assert.deepEqual(last().events(), ["t phx_join"])
})

test("a push without reply times out, and a reply after that is ignored", () => {
  const { clock, last, channel } = joined()
  const replies = recorder()
  channel.push("e", {}, 100).receive("ok", () => replies("ok")).receive("timeout", () => replies("timeout"))
  clock.tick(99)
  assert.deepEqual(replies.values(), [])
  clock.tick(1)
  last().reply("ok")
  assert.deepEqual(replies.values(), ["timeout"])
})

test("pushes made without a connection are sent after the rejoin, with its join_ref", () => {
  const { clock, last, channel } = joined("t")
  last().drop()
  channel.push("e")
  clock.tick(10)
  last().open()
  last().reply("ok")
  assert.deepEqual(last().sent.map(([joinRef, , , event]) => [joinRef, event]), [
    ["3", "phx_join"],
    ["3", "e"],
  ])
})

test("canPush is true when connected and joined", () => {
  const { last, channel } = joined()
  assert.equal(channel.canPush(), true)
  last().drop()
  assert.equal(channel.canPush(), false)
})

// ------------------------------------------------------------------------------------------
// Channel: receiving
// ------------------------------------------------------------------------------------------

test("each binding of an event is called, with payload, ref and join_ref", () => {
  const { last, channel } = joined()
  const one = recorder()
  const two = recorder()
  channel.on("hello", one)
  channel.on("hello", two)
  last().receive("1", null, "rooms:lobby", "hello", { a: 1 })
  last().receive(null, null, "rooms:lobby", "hello", { a: 2 })
  assert.deepEqual(one.calls, [
    [{ a: 1 }, null, "1"],
    [{ a: 2 }, null, "1"],
  ])
  assert.equal(two.calls.length, 2)
})

test("messages of other topics and other joins are not delivered", () => {
  const { last, channel, log } = joined()
  const hello = recorder()
  channel.on("hello", hello)
  last().receive(null, null, "rooms:other", "hello", {})
  last().receive("99", null, "rooms:lobby", "hello", {})
  assert.deepEqual(hello.calls, [])
  assert.ok(log.some(({ text }) => text === "dropping outdated message"))
})

test("a channel that is joining already gets what the server pushes", () => {
  const { socket, last } = connected()
  const channel = socket.channel("t")
  const hello = recorder()
  channel.on("hello", hello)
  channel.join()
  last().receive("1", null, "t", "hello", {})
  assert.equal(hello.calls.length, 1)
})

test("off removes the bindings of an event, or the one with a ref", () => {
  const { channel } = joined()
  const a = recorder()
  const b = recorder()
  const ref = channel.on("e", a)
  assert.notEqual(channel.on("e", b), ref)
  channel.off("e", ref)
  channel.trigger("e", {})
  assert.deepEqual([a.calls.length, b.calls.length], [0, 1])
  channel.on("f", a)
  channel.off("e")
  channel.trigger("e", {})
  channel.trigger("f", {})
  assert.deepEqual([a.calls.length, b.calls.length], [1, 1])
})

test("bindings made or removed by a callback count from the next message on", () => {
  const { channel } = joined()
  const calls = []
  channel.on("e", () => {
    calls.push("first")
    channel.off("e")
    channel.on("e", () => calls.push("new"))
  })
  channel.on("e", () => calls.push("second"))
  channel.trigger("e")
  channel.trigger("e")
  assert.deepEqual(calls, ["first", "second", "new"])
})

test("trigger calls the bindings without a server", () => {
  const { socket } = setup()
  const channel = socket.channel("t")
  const got = recorder()
  channel.on("pong", got)
  channel.trigger("pong", { n: 1 })
  channel.trigger("other", { n: 2 })
  assert.deepEqual(got.values(), [{ n: 1 }])
})

test("trigger also answers a push, by the name of its reply", () => {
  const { channel } = joined()
  const ok = recorder()
  const push = channel.push("e").receive("ok", ok)
  channel.trigger(`chan_reply_${push.ref}`, { status: "ok", response: { n: 1 } })
  assert.deepEqual(ok.calls, [[{ n: 1 }]])
})

test("onMessage sees every message and may change the payload, but must return one", () => {
  const { last, channel } = joined("t")
  const got = recorder()
  channel.on("e", got)
  const seen = recorder()
  channel.onMessage = (event, payload, ref, joinRef) => {
    seen(event, payload, ref, joinRef)
    return { ...payload, seen: true }
  }
  last().receive("1", null, "t", "e", { a: 1 })
  assert.deepEqual(seen.calls, [["e", { a: 1 }, null, "1"]])
  assert.deepEqual(got.values(), [{ a: 1, seen: true }])
  channel.onMessage = () => undefined
  assert.throws(() => channel.trigger("e", {}), {
    message: "channel onMessage callbacks must return the payload, modified or unmodified",
  })
})

// ------------------------------------------------------------------------------------------
// Channel: leaving
// ------------------------------------------------------------------------------------------

test("leave sends phx_leave, and closes and forgets the channel at once", () => {
  const { socket, clock, last, channel } = joined("t")
  const closed = recorder()
  const ok = recorder()
  channel.onClose(closed)
  const before = clock.pending()
  channel.leave().receive("ok", ok)
  assert.deepEqual(last().sent.at(-1), ["1", "2", "t", "phx_leave", {}])
  assert.deepEqual(closed.values(), ["leave"])
  assert.equal(ok.calls.length, 1)
  assert.equal(channel.state, "closed")
  assert.deepEqual(socket.channels, [])
  assert.equal(clock.pending(), before, "no time-out is left behind")
  last().reply("ok")
  last().receive("1", "1", "t", "phx_close", {})
  assert.equal(closed.calls.length, 1)
})

test("leave takes a message for the server, or a time-out", () => {
  const first = joined("t")
  first.channel.leave({ reason: "bored" })
  assert.deepEqual(first.last().sent.at(-1), ["1", "2", "t", "phx_leave", { reason: "bored" }])
  const second = joined("t")
  assert.equal(second.channel.leave(1234).timeout, 1234)
  assert.deepEqual(second.last().sent.at(-1)[4], {})
})

test("a channel that left does not come back", () => {
  const { clock, last, channel } = joined("t")
  channel.leave()
  clock.tick(20000)
  last().drop()
  clock.tick(10)
  last().open()
  assert.deepEqual(last().sent, [])
})

test("a channel that joins and leaves without a connection sends neither", () => {
  const { socket, last } = setup()
  const channel = socket.channel("t")
  channel.join()
  channel.leave()
  socket.connect()
  last().open()
  assert.deepEqual(last().sent, [])
})

test("leaving while joining stays left when the join is answered", () => {
  const { socket, clock, last } = connected()
  const channel = socket.channel("t")
  channel.join()
  const [join] = last().sent
  channel.leave()
  last().reply("ok", {}, join)
  clock.tick(20000)
  assert.equal(channel.state, "closed")
  assert.deepEqual(last().events(), ["t phx_join", "t phx_leave"])
})

// ------------------------------------------------------------------------------------------
// The first Phoenix's way to join
// ------------------------------------------------------------------------------------------

const page = { location: { protocol: "http:", host: "localhost:4000" } }

/** Run *body* with a page whose WebSocket is the fake one, and a clock for its timers. */
async function inPage(body) {
  const clock = makeClock()
  const WebSocket = makeTransport(clock)
  const { setTimeout, clearTimeout } = clock
  await withGlobals({ ...page, WebSocket, setTimeout, clearTimeout }, () => {
    body({ clock, WebSocket, last: () => WebSocket.made.at(-1) })
  })
}

test("sample: new Phoenix.Socket and socket.join with a token", () =>
  inPage(({ last }) => {
    const callback = recorder()

    var socket = new Phoenix.Socket("/ws");

    socket.join("channel", "topic", {some_auth_token: "secret"}, callback);

    assert.equal(last().url, "ws://localhost:4000/ws/websocket?vsn=2.0.0")
    assert.equal(callback.calls.length, 0)
    last().open()
    assert.equal(callback.calls.length, 1)
    assert.deepEqual(last().sent, [["1", "1", "channel:topic", "phx_join", { some_auth_token: "secret" }]])
  }))

test("sample: a callback that listens for pong and sends ping", () =>
  inPage(({ last }) => {
    const console = { log: recorder() }
    let happen
    const onSomeEvent = callback => (happen = callback)

    var socket = new Phoenix.Socket("/ws");

    socket.join("channel", "topic", {}, function(channel) {

      channel.on("pong", function(message) {
        console.log("Got " + message + " while listening for event pong");
      });

      onSomeEvent(function() {
        channel.send("ping", {data: "json stuff"});
      });

    });

    last().open()
    last().reply("ok")
    happen()
    assert.deepEqual(last().sent.at(-1), ["1", "2", "channel:topic", "ping", { data: "json stuff" }])
    last().receive("1", null, "channel:topic", "pong", "it")
    assert.deepEqual(console.log.values(), ["Got it while listening for event pong"])
  }))

test("sample: the join event that the server sends while joining, before or after its reply", () =>
  inPage(({ last }) => {
    const console = { log: recorder() }
    const join = () =>
      new Phoenix.Socket("/ws").join("channel", "topic", {}, function(channel) {
        channel.on("join", function(message) {
          console.log("Got " + message.content);
        });
      })

    join()
    last().open()
    last().receive("1", null, "channel:topic", "join", { content: "joined topic successfully" })
    last().receive("1", "1", "channel:topic", "phx_reply", { status: "ok", response: {} })
    join()
    last().open()
    last().receive("1", "1", "channel:topic", "phx_reply", { status: "ok", response: {} })
    last().receive("1", null, "channel:topic", "join", { content: "joined topic successfully" })
    assert.deepEqual(console.log.values(), ["Got joined topic successfully", "Got joined topic successfully"])
  }))

test("sample: the error event that the server sends while refusing, before or after its reply", () =>
  inPage(({ last }) => {
    const console = { log: recorder() }
    const join = () =>
      new Phoenix.Socket("/ws").join("channel", "topic", {}, function(channel) {
        channel.on("error", function(error) {
          console.log("Failed to join topic. Reason: " + error.reason);
        });
      })

    join()
    last().open()
    last().receive("1", null, "channel:topic", "error", { reason: "failed to join topic" })
    last().receive("1", "1", "channel:topic", "phx_reply", { status: "error", response: {} })
    join()
    last().open()
    last().receive("1", "1", "channel:topic", "phx_reply", { status: "error", response: {} })
    last().receive("1", null, "channel:topic", "error", { reason: "failed to join topic" })
    const line = "Failed to join topic. Reason: failed to join topic"
    assert.deepEqual(console.log.values(), [line, line])
  }))

test("sample: sockets on another host", () =>
  inPage(({ WebSocket }) => {
    var socket = new Phoenix.Socket("//example.com/ws")
    socket.connect()
    var socket = new Phoenix.Socket("ws://example.com/ws")
    socket.connect()
    const url = "ws://example.com/ws/websocket?vsn=2.0.0"
    assert.deepEqual(WebSocket.made.map(transport => transport.url), [url, url])
  }))

const [modernSample, firstSample] = readFileSync(SOURCE, "utf8")
  .split("*/")[0]
  .split("The same in the words of the first Phoenix")
  .map(text => text.match(/^ \* {7}.*$/gm).map(line => line.slice(2)).join("\n"))

test("the sample in the head of the file works", () =>
  inPage(({ last }) => {
    const console = { log: recorder() }
    new Function("Phoenix", "console", modernSample)(Phoenix, console)
    assert.equal(last().url, "ws://localhost:4000/ws/websocket?token=secret&vsn=2.0.0")
    last().open()
    assert.deepEqual(last().sent, [["1", "1", "rooms:lobby", "phx_join", { name: "Ann" }]])
    last().reply("ok", { n: 1 })
    assert.deepEqual(last().events(), ["rooms:lobby phx_join", "rooms:lobby new:msg"])
    last().receive(null, null, "rooms:lobby", "new:msg", { body: "hi" })
    assert.deepEqual(console.log.calls, [["joined", { n: 1 }], ["hi"]])
  }))

test("the sample in the words of the first Phoenix works too", () =>
  inPage(({ last }) => {
    const console = { log: recorder() }
    new Function("Phoenix", "console", firstSample)(Phoenix, console)
    last().open()
    last().reply("ok")
    assert.deepEqual(last().events(), ["rooms:lobby phx_join", "rooms:lobby new:msg"])
    last().receive(null, null, "rooms:lobby", "new:msg", { body: "hi" })
    assert.deepEqual(console.log.calls, [["hi"]])
  }))

test("socket.join on an open connection joins and calls back at once", () => {
  const { socket, last, Transport } = connected()
  const callback = recorder()
  const channel = socket.join("rooms", "lobby", {}, callback)
  assert.deepEqual(callback.calls, [[channel]])
  assert.deepEqual(last().events(), ["rooms:lobby phx_join"])
  assert.equal(Transport.made.length, 1)
})

test("socket.join after close connects again", () => {
  const { socket, last, Transport } = connected()
  socket.close()
  socket.join("rooms", "lobby")
  assert.equal(Transport.made.length, 2)
  last().open()
  assert.deepEqual(last().events(), ["rooms:lobby phx_join"])
})

test("socket.join does without message and callback", () => {
  const { socket, last } = connected()
  socket.join("rooms", "lobby")
  assert.deepEqual(last().sent, [["1", "1", "rooms:lobby", "phx_join", {}]])
})

test("what the callback sends goes out when the join is answered", () => {
  const { socket, last } = connected()
  socket.join("rooms", "lobby", {}, channel => channel.send("hello", { n: 1 }))
  assert.deepEqual(last().events(), ["rooms:lobby phx_join"])
  last().reply("ok")
  assert.deepEqual(last().events(), ["rooms:lobby phx_join", "rooms:lobby hello"])
})

test("after a reconnect the bindings are gone, and the callback is called again with the channel", () => {
  const { socket, clock, last } = connected()
  const got = recorder()
  const callback = recorder()
  const channel = socket.join("rooms", "lobby", { token: "t" }, one => {
    callback(one)
    one.on("hello", got)
  })
  last().reply("ok")
  channel.on("bound outside", got)
  last().drop()
  clock.tick(10)
  last().open()
  assert.deepEqual(callback.calls, [[channel], [channel]])
  assert.deepEqual(last().sent, [["2", "2", "rooms:lobby", "phx_join", { token: "t" }]])
  last().reply("ok")
  channel.trigger("hello", {})
  channel.trigger("bound outside", {})
  assert.equal(got.calls.length, 1)
})

test("what the callback sent for a join that failed is not sent twice, what others sent is kept", () => {
  const { socket, clock, last } = connected()
  let channel
  socket.join("rooms", "lobby", {}, one => {
    channel = one
    one.send("from the callback")
  })
  channel.send("from a button")
  last().drop()
  clock.tick(10)
  last().open()
  last().reply("ok")
  assert.deepEqual(last().sent.map(([, , , event]) => event).sort(), ["from a button", "from the callback", "phx_join"])
})

test("a refused socket.join does not ask again before the next connection", () => {
  const { socket, clock, last } = connected()
  const callback = recorder()
  socket.join("rooms", "secret", {}, callback)
  last().reply("error", { reason: "unauthorized" })
  clock.tick(29999)
  assert.deepEqual(last().events(), ["rooms:secret phx_join"])
  last().drop()
  clock.tick(10)
  last().open()
  assert.deepEqual(last().events(), ["rooms:secret phx_join"])
  assert.equal(callback.calls.length, 2)
})

test("a channel of socket.join that crashed joins again, and the callback is called again", () => {
  const { socket, clock, last } = connected()
  const callback = recorder()
  socket.join("rooms", "lobby", {}, callback)
  last().reply("ok")
  last().receive("1", "1", "rooms:lobby", "phx_error", {})
  clock.tick(1000)
  assert.deepEqual(last().events(), ["rooms:lobby phx_join", "rooms:lobby phx_join"])
  assert.equal(callback.calls.length, 2)
})

test("leaving a channel of socket.join sends the message, and clears bindings and channel", () => {
  const { socket, last } = connected()
  const channel = socket.join("rooms", "lobby")
  const got = recorder()
  channel.on("hello", got)
  last().reply("ok")
  channel.leave({ why: "tired" })
  assert.deepEqual(last().sent.at(-1), ["1", "2", "rooms:lobby", "phx_leave", { why: "tired" }])
  channel.trigger("hello", {})
  assert.deepEqual(got.calls, [])
  assert.deepEqual(socket.channels, [])
})

test("both ways to join share one connection", () => {
  const { socket, last, Transport } = connected()
  const got = recorder()
  socket.join("rooms", "a", {}, channel => channel.on("e", () => got("a")))
  const b = socket.channel("rooms:b")
  b.on("e", () => got("b"))
  b.join()
  last().receive(null, null, "rooms:a", "e", {})
  last().receive(null, null, "rooms:b", "e", {})
  assert.deepEqual(got.values(), ["a", "b"])
  assert.equal(Transport.made.length, 1)
})

// ------------------------------------------------------------------------------------------
// Presence
// ------------------------------------------------------------------------------------------

const metas = (...refs) => ({ metas: refs.map(phx_ref => ({ phx_ref })) })

test("syncState gives the new state, and says who joined and who left", () => {
  const joins = recorder()
  const leaves = recorder()
  const state = { u1: metas("1"), u2: metas("2", "2b"), u3: metas("3") }
  const next = { u2: metas("2", "2c"), u3: metas("3"), u4: metas("4") }
  const before = plain([state, next])
  const synced = Presence.syncState(state, next, joins, leaves)
  assert.deepEqual(plain(synced), plain(next))
  assert.deepEqual(plain(joins.calls), plain([
    ["u2", metas("2", "2b"), metas("2c")],
    ["u4", undefined, metas("4")],
  ]))
  assert.deepEqual(plain(leaves.calls), plain([
    ["u1", metas(), metas("1")],
    ["u2", metas("2", "2c"), metas("2b")],
  ]))
  assert.deepEqual(plain([state, next]), before, "the arguments are left alone")
})

test("syncDiff adds metas behind those that are there, removes others, and keys with the last", () => {
  const state = { u1: metas("1"), u2: metas("2", "2b"), u3: metas("3") }
  const before = plain(state)
  const joins = recorder()
  const leaves = recorder()
  const diff = {
    joins: { u1: metas("1b"), u4: metas("4") },
    leaves: { u2: metas("2"), u3: metas("3"), nobody: metas("9") },
  }
  const synced = Presence.syncDiff(state, diff, joins, leaves)
  assert.deepEqual(plain(synced), plain({ u1: metas("1", "1b"), u2: metas("2b"), u4: metas("4") }))
  assert.deepEqual(plain(joins.calls), plain([["u1", metas("1"), metas("1b")], ["u4", undefined, metas("4")]]))
  assert.deepEqual(plain(leaves.calls), plain([["u2", metas("2b"), metas("2")], ["u3", metas(), metas("3")]]))
  assert.deepEqual(plain(state), before)
})

test("an update is a leave of the old ref and a join of the new one", () => {
  const diff = {
    joins: { u1: { metas: [{ phx_ref: "2", phx_ref_prev: "1", away: true }] } },
    leaves: { u1: metas("1") },
  }
  const synced = Presence.syncDiff({ u1: metas("1") }, diff)
  assert.deepEqual(plain(synced), { u1: { metas: [{ phx_ref: "2", phx_ref_prev: "1", away: true }] } })
})

test("a user may be called constructor or __proto__", () => {
  const state = Presence.syncState({}, JSON.parse('{"constructor":{"metas":[]},"__proto__":{"metas":[]}}'))
  assert.equal(Object.getPrototypeOf(state), null)
  assert.deepEqual(Object.keys(state), ["constructor", "__proto__"])
  assert.deepEqual(Presence.list(Presence.syncDiff({}, { joins: {}, leaves: { constructor: metas("1") } })), [])
})

test("list gives the presences, or what a function makes of key and presence", () => {
  const state = { u1: metas("1"), u2: metas("2") }
  assert.deepEqual(Presence.list(state), [metas("1"), metas("2")])
  assert.deepEqual(Presence.list(state, (key, { metas: [first] }) => `${key} ${first.phx_ref}`), ["u1 1", "u2 2"])
})

test("a Presence follows its channel, and tells of joins, leaves and syncs", () => {
  const { last, channel } = joined("t")
  const presence = new Presence(channel)
  const calls = []
  presence.onJoin((key, current, { metas }) => calls.push(["join", key, Boolean(current), metas.length]))
  presence.onLeave((key, current, left) => calls.push(["leave", key, current.metas.length, left.metas.length]))
  presence.onSync(() => calls.push(presence.list(key => key)))
  last().receive("1", null, "t", "presence_state", { u1: metas("1") })
  last().receive(null, null, "t", "presence_diff", { joins: { u2: metas("2") }, leaves: {} })
  last().receive(null, null, "t", "presence_diff", { joins: { u1: metas("1b") }, leaves: { u2: metas("2") } })
  assert.deepEqual(calls, [
    ["join", "u1", false, 1],
    ["u1"],
    ["join", "u2", false, 1],
    ["u1", "u2"],
    ["join", "u1", true, 1],
    ["leave", "u2", 0, 1],
    ["u1"],
  ])
})

test("diffs that come before the first state are kept for it", () => {
  const { last, channel } = joined("t")
  const presence = new Presence(channel)
  const syncs = recorder()
  presence.onSync(syncs)
  last().receive(null, null, "t", "presence_diff", { joins: { u2: metas("2") }, leaves: { u1: metas("1") } })
  assert.deepEqual(presence.list(), [])
  assert.equal(syncs.calls.length, 0)
  last().receive("1", null, "t", "presence_state", { u1: metas("1"), u3: metas("3") })
  assert.deepEqual(presence.list(key => key), ["u3", "u2"])
  assert.equal(syncs.calls.length, 1)
})

test("after a rejoin diffs wait for the new state, and the old one is compared with it", () => {
  const { clock, last, channel } = joined("t")
  const presence = new Presence(channel)
  const leaves = recorder()
  presence.onLeave(leaves)
  last().receive("1", null, "t", "presence_state", { u1: metas("1"), u2: metas("2") })
  last().drop()
  clock.tick(10)
  last().open()
  last().reply("ok")
  const joinRef = channel.joinRef()
  assert.equal(presence.inPendingSyncState(), true)
  last().receive(null, null, "t", "presence_diff", { joins: { u3: metas("3") }, leaves: {} })
  assert.deepEqual(presence.list(key => key), ["u1", "u2"])
  last().receive(joinRef, null, "t", "presence_state", { u2: metas("2") })
  assert.equal(presence.inPendingSyncState(), false)
  assert.deepEqual(presence.list(key => key), ["u2", "u3"])
  assert.deepEqual(leaves.values(), ["u1"])
})

test("the events of a Presence may have other names", () => {
  const { channel } = joined("t")
  const presence = new Presence(channel, { events: { state: "s", diff: "d" } })
  channel.trigger("s", { u1: metas("1") })
  channel.trigger("d", { joins: { u2: metas("2") }, leaves: {} })
  assert.deepEqual(presence.list(key => key), ["u1", "u2"])
})

// ------------------------------------------------------------------------------------------
// Long poll
// ------------------------------------------------------------------------------------------

/** Replaces fetch: requests are listed, and each is answered by the test. */
function makeFetch() {
  const requests = []
  const fetch = (url, { method, headers, body, signal }) => {
    const request = { url, method, headers, body, aborted: false }
    requests.push(request)
    return new Promise((resolve, reject) => {
      request.answer = json => {
        resolve({ json: async () => json })
        return settle()
      }
      request.breakOff = () => {
        reject(new Error("network"))
        return settle()
      }
      signal.addEventListener("abort", () => {
        request.aborted = true
        reject(new Error("aborted"))
      })
    })
  }
  const lastOf = method => requests.filter(request => request.method === method).at(-1)
  return { fetch, requests, get: () => lastOf("GET"), post: () => lastOf("POST") }
}

/** Run *body* with a socket whose transport is LongPoll, connected unless `connect` is false. */
function polling(body, { connect = true, ...options } = {}) {
  const server = makeFetch()
  const clock = makeClock()
  return withGlobals({ fetch: server.fetch }, async () => {
    const socket = new Socket("ws://host/ws", { transport: LongPoll, timers: clock, ...options })
    if (connect) {
      socket.connect()
      await settle()
      await server.get().answer({ status: 410, token: "t1", messages: [] })
      assert.equal(socket.isConnected(), true)
    }
    await body({ ...server, clock, socket })
  })
}

test("a long poll opens when the server answers the first GET with a token", () =>
  polling(
    async ({ socket, get, requests }) => {
      const opened = recorder()
      socket.onOpen(opened)
      socket.connect()
      assert.equal(socket.connectionState(), "connecting")
      await settle()
      assert.equal(get().url, "http://host/ws/longpoll?vsn=2.0.0")
      assert.deepEqual(get().headers, { Accept: "application/json" })
      await get().answer({ status: 410, token: "t 1", messages: [] })
      assert.equal(opened.calls.length, 1)
      assert.equal(requests.length, 2)
      assert.equal(get().url, "http://host/ws/longpoll?vsn=2.0.0&token=t%201")
    },
    { connect: false }
  ))

test("wss becomes https", () =>
  polling(
    async ({ get }) => {
      const transport = new LongPoll("wss://host/websocket/websocket?vsn=2.0.0")
      await settle()
      assert.equal(get().url, "https://host/websocket/longpoll?vsn=2.0.0")
      transport.close()
    },
    { connect: false }
  ))

test("a long poll delivers each message in a turn of its own, and polls again", () =>
  polling(async ({ socket, clock, get, requests }) => {
    const got = recorder()
    socket.onMessage(message => got(message.event))
    await get().answer({ status: 200, token: "t2", messages: ['[null,null,"t","a",{}]', '[null,null,"t","b",{}]'] })
    assert.deepEqual(got.calls, [])
    assert.equal(requests.length, 3)
    assert.match(get().url, /token=t2$/)
    clock.tick(0)
    assert.deepEqual(got.values(), ["a", "b"])
    await get().answer({ status: 204, token: "t2", messages: [] })
    assert.equal(requests.length, 4)
  }))

test("a long poll has no heartbeat", () =>
  polling(async ({ clock, post }) => {
    clock.tick(19999)
    assert.equal(post(), undefined)
  }))

test("all sends of one turn are one POST of lines, binary ones in base64", () =>
  polling(async ({ socket, clock, post }) => {
    socket.push({ topic: "t", event: "a", payload: {}, ref: "1" })
    socket.push({ topic: "t", event: "b", payload: buffer(255, 254), ref: "2", join_ref: "1" })
    assert.equal(post(), undefined)
    clock.tick(0)
    assert.equal(post().url, "http://host/ws/longpoll?vsn=2.0.0&token=t1")
    assert.deepEqual(post().headers, { "Content-Type": "application/x-ndjson" })
    const [text, binary] = post().body.split("\n")
    assert.equal(text, '[null,"1","t","a",{}]')
    assert.deepEqual([...Buffer.from(binary, "base64")], [0, 1, 1, 1, 1, ...Buffer.from("12tb"), 255, 254])
  }))

test("a batch waits for the answer to the one before, and has at most 100 lines", () =>
  polling(async ({ socket, clock, post, requests }) => {
    const posts = () => requests.filter(({ method }) => method === "POST").map(({ body }) => body.split("\n").length)
    const push = n => {
      for (let i = 0; i < n; i++) socket.push({ topic: "t", event: "e", payload: {} })
    }
    push(150)
    clock.tick(0)
    push(30)
    clock.tick(0)
    assert.deepEqual(posts(), [100])
    await post().answer({ status: 200 })
    assert.deepEqual(posts(), [100, 80])
    await post().answer({ status: 200 })
    clock.tick(0)
    assert.deepEqual(posts(), [100, 80])
    push(1)
    clock.tick(0)
    assert.deepEqual(posts(), [100, 80, 1])
  }))

test("a session that the server forgot is closed with 3410, and made anew", () =>
  polling(async ({ socket, clock, get }) => {
    const errors = recorder()
    const closed = recorder()
    const opened = recorder()
    socket.onError(errors)
    socket.onClose(closed)
    socket.onOpen(opened)
    const channel = socket.channel("t")
    channel.join()
    await get().answer({ status: 410, token: "t2", messages: [] })
    assert.deepEqual(errors.values(), [410])
    assert.deepEqual(closed.values(), [{ code: 3410, reason: "session_gone", wasClean: false }])
    assert.equal(channel.state, "errored")
    clock.tick(10)
    await settle()
    assert.equal(get().url, "http://host/ws/longpoll?vsn=2.0.0")
    await get().answer({ status: 410, token: "t3", messages: [] })
    assert.equal(opened.calls.length, 1)
    assert.equal(channel.state, "joining")
  }))

for (const [what, answer, error, code] of [
  ["a refused connect", request => request.answer({ status: 403 }), 403, 1008],
  ["an error of the server", request => request.answer({ status: 500 }), 500, 1011],
  ["an answer that is not JSON", request => request.answer(null), 500, 1011],
  ["a broken network", request => request.breakOff(), 500, 1011],
]) {
  test(`${what} is an error and a close, and a new attempt follows`, () =>
    polling(async ({ socket, clock, get, requests }) => {
      const errors = recorder()
      const closed = recorder()
      socket.onError(errors)
      socket.onClose(closed)
      const before = requests.length
      await answer(get())
      assert.deepEqual(errors.values(), [error])
      assert.deepEqual(closed.values().map(event => event.code), [code])
      clock.tick(10)
      await settle()
      assert.equal(requests.length, before + 1)
    }))
}

test("a GET without answer times out after longpollerTimeout", () =>
  polling(
    async ({ socket, clock, get }) => {
      const errors = recorder()
      const closed = recorder()
      socket.onError(errors)
      socket.onClose(closed)
      const stuck = get()
      clock.tick(4999)
      assert.equal(stuck.aborted, false)
      clock.tick(1)
      await settle()
      assert.equal(stuck.aborted, true)
      assert.deepEqual(errors.values(), ["timeout"])
      assert.deepEqual(closed.values().map(({ code, reason }) => [code, reason]), [[1005, "timeout"]])
    },
    { longpollerTimeout: 5000 }
  ))

test("a POST that is not answered with 200 closes the connection", () =>
  polling(async ({ socket, clock, post }) => {
    const closed = recorder()
    socket.onClose(closed)
    socket.push({ topic: "t", event: "e", payload: {} })
    clock.tick(0)
    await post().answer({ status: 408 })
    assert.deepEqual(closed.values().map(({ code }) => code), [1011])
  }))

test("disconnect lets what was sent arrive, then aborts the waiting GET", () =>
  polling(async ({ socket, clock, get, post, requests }) => {
    const done = recorder()
    const errors = recorder()
    socket.onError(errors)
    const waiting = get()
    socket.push({ topic: "t", event: "last words", payload: {} })
    socket.disconnect(done)
    clock.tick(0)
    await post().answer({ status: 200 })
    clock.tick(150)
    await settle()
    assert.equal(waiting.aborted, true)
    assert.equal(done.calls.length, 1)
    assert.deepEqual(errors.calls, [])
    const count = requests.length
    clock.tick(60000)
    await settle()
    assert.equal(requests.length, count)
  }))

test("messages that were to be delivered after a disconnect are dropped", () =>
  polling(async ({ socket, clock, get }) => {
    const got = recorder()
    socket.onMessage(got)
    await get().answer({ status: 200, token: "t1", messages: ['[null,null,"t","a",{}]'] })
    socket.disconnect()
    clock.tick(1000)
    assert.deepEqual(got.calls, [])
  }))

test("a long poll closed before its first request makes none", () =>
  polling(
    async ({ socket, requests }) => {
      socket.connect()
      socket.disconnect()
      await settle()
      assert.equal(requests.length, 0)
    },
    { connect: false }
  ))

test("a long poll sends the token in a header of its own", () =>
  polling(
    async ({ socket, get }) => {
      socket.connect()
      await settle()
      assert.equal(get().headers["X-Phoenix-AuthToken"], "secret?>~")
    },
    { connect: false, authToken: "secret?>~" }
  ))

test("channels work over a long poll as they do over a WebSocket", () =>
  polling(async ({ socket, clock, get, post }) => {
    const ok = recorder()
    const channel = socket.channel("rooms:lobby")
    channel.join().receive("ok", ok)
    clock.tick(0)
    assert.equal(post().body, '["1","1","rooms:lobby","phx_join",{}]')
    await post().answer({ status: 200 })
    await get().answer({
      status: 200,
      token: "t1",
      messages: ['["1","1","rooms:lobby","phx_reply",{"status":"ok","response":{"n":1}}]'],
    })
    clock.tick(0)
    assert.deepEqual(ok.calls, [[{ n: 1 }]])
    assert.equal(channel.state, "joined")
  }))

test("Ajax calls back with JSON, with null, or with a time-out, and not after abort", () => {
  const { fetch, get } = makeFetch()
  const { socket, clock } = setup()
  return withGlobals({ fetch }, async () => {
    const answers = recorder()
    const ask = () => Ajax.request("GET", "/x", { timeout: 50, clock: socket.clock }, answers)
    ask()
    await get().answer({ a: 1 })
    ask()
    await get().breakOff()
    ask()
    clock.tick(50)
    await settle()
    ask().abort()
    await settle()
    assert.deepEqual(answers.calls, [[{ a: 1 }], [null], [null, "timeout"]])
    assert.equal(clock.pending(), 0)
  })
})

// ------------------------------------------------------------------------------------------
// Long-poll fallback
// ------------------------------------------------------------------------------------------

function makeStorage() {
  const items = {}
  return { items, getItem: key => items[key] ?? null, setItem: (key, value) => (items[key] = value) }
}

function falling(body, options = {}) {
  const server = makeFetch()
  const sessionStorage = makeStorage()
  return withGlobals({ fetch: server.fetch }, async () => {
    const env = setup({ longPollFallbackMs: 2500, sessionStorage, ...options })
    env.socket.connect()
    await body({ ...env, ...server, memory: sessionStorage.items })
    env.socket.disconnect()
  })
}

const MEMORY = { "phx:fallback:LongPoll": "true" }

test("a WebSocket that does not open in time is replaced by LongPoll, and the session remembers it", () =>
  falling(async ({ socket, clock, get, last, memory }) => {
    const channel = socket.channel("t")
    channel.join()
    clock.tick(2499)
    assert.notEqual(socket.transport, LongPoll)
    clock.tick(1)
    assert.equal(socket.transport, LongPoll)
    assert.ok(last().closedWith)
    await settle()
    assert.deepEqual(memory, {})
    await get().answer({ status: 410, token: "t", messages: [] })
    assert.equal(socket.isConnected(), true)
    assert.deepEqual(memory, MEMORY)
    assert.equal(channel.state, "joining")
  }))

test("a WebSocket that fails before it ever opened is replaced at once", () =>
  falling(async ({ socket, last, get }) => {
    const errors = recorder()
    socket.onError(errors)
    last().fail("blocked")
    await settle()
    assert.equal(socket.transport, LongPoll)
    assert.equal(errors.calls.length, 1)
    assert.match(get().url, /longpoll/)
  }))

test("a WebSocket that opens but does not answer a ping is replaced", () =>
  falling(async ({ socket, clock, last, memory, get }) => {
    clock.tick(2000)
    last().open()
    assert.deepEqual(last().events(), ["phoenix heartbeat"])
    const channel = socket.channel("t")
    const errors = recorder()
    channel.onError(errors)
    channel.join()
    clock.tick(2499)
    assert.notEqual(socket.transport, LongPoll)
    clock.tick(1)
    assert.equal(socket.transport, LongPoll)
    assert.equal(errors.calls.length, 1)
    await settle()
    await get().answer({ status: 410, token: "t", messages: [] })
    assert.equal(channel.state, "joining")
    assert.deepEqual(memory, MEMORY)
  }))

test("a WebSocket that answers the ping stays, and an error later does not replace it", () =>
  falling(async ({ socket, clock, last, Transport, memory }) => {
    last().open()
    last().reply("ok")
    clock.tick(10000)
    assert.equal(socket.transport, Transport)
    last().fail()
    clock.tick(10)
    last().fail()
    clock.tick(50)
    assert.equal(socket.transport, Transport)
    assert.equal(Transport.made.length, 3)
    assert.deepEqual(memory, {})
  }))

test("a fallback from a WebSocket that was healthy once is not remembered", () =>
  falling(async ({ socket, clock, last, get, memory }) => {
    last().open()
    last().reply("ok")
    last().drop()
    clock.tick(10 + 2500)
    assert.equal(socket.transport, LongPoll)
    await settle()
    await get().answer({ status: 410, token: "t", messages: [] })
    assert.equal(socket.isConnected(), true)
    assert.deepEqual(memory, {})
  }))

test("a session that remembers goes to LongPoll directly", () => {
  const sessionStorage = makeStorage()
  Object.assign(sessionStorage.items, MEMORY)
  return falling(async ({ socket, Transport, get }) => {
    assert.equal(Transport.made.length, 0)
    assert.equal(socket.transport, LongPoll)
    await settle()
    assert.match(get().url, /longpoll/)
  }, { sessionStorage })
})

test("a page that may not use its session storage falls back all the same", () => {
  const refuse = () => {
    throw new Error("SecurityError")
  }
  return falling(async ({ socket, last, get }) => {
    last().fail()
    await settle()
    await get().answer({ status: 410, token: "t", messages: [] })
    assert.equal(socket.isConnected(), true)
  }, { sessionStorage: { getItem: refuse, setItem: refuse } })
})

test("without longPollFallbackMs a WebSocket that fails is tried again", () => {
  const { socket, clock, last, Transport } = setup()
  socket.connect()
  last().fail()
  clock.tick(10)
  assert.equal(socket.transport, Transport)
  assert.equal(Transport.made.length, 2)
})

test("disconnect ends the trial of the WebSocket", () =>
  falling(async ({ socket, clock, Transport, requests }) => {
    socket.disconnect()
    clock.tick(60000)
    await settle()
    assert.equal(socket.transport, Transport)
    assert.equal(requests.length, 0)
  }))

test("replaceTransport disconnects, and the next connect uses the new one", () => {
  const { socket, clock, last, Transport, channel } = joined("t")
  const Other = makeTransport(clock)
  socket.replaceTransport(Other)
  assert.equal(socket.isConnected(), false)
  assert.equal(last().readyState, 2)
  assert.equal(channel.state, "errored")
  clock.tick(60000)
  assert.equal(Other.made.length, 0)
  socket.connect()
  assert.deepEqual([Transport.made.length, Other.made.length], [1, 1])
  Other.made[0].open()
  assert.deepEqual(Other.made[0].events(), ["t phx_join"])
})

// ------------------------------------------------------------------------------------------
// The page: hidden, shown, left and come back to
// ------------------------------------------------------------------------------------------

function inWindow(body) {
  const window = new EventTarget()
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" })
  const page = {
    hide() {
      document.visibilityState = "hidden"
      window.dispatchEvent(new Event("visibilitychange"))
    },
    show() {
      document.visibilityState = "visible"
      window.dispatchEvent(new Event("visibilitychange"))
    },
    resume() {
      document.visibilityState = "visible"
      document.dispatchEvent(new Event("resume"))
    },
    leave: () => window.dispatchEvent(new Event("pagehide")),
    comeBack: () => window.dispatchEvent(new Event("pageshow")),
  }
  return withGlobals({ window, document }, () => body(page))
}

test("a hidden page does not reconnect, and does so at once when shown", () =>
  inWindow(page => {
    const { clock, last, Transport, channel } = joined("t")
    page.hide()
    last().drop()
    clock.tick(60000)
    assert.equal(Transport.made.length, 1)
    page.show()
    assert.equal(Transport.made.length, 2)
    last().open()
    assert.equal(channel.state, "joining")
  }))

test("a hidden page keeps the connection that it has", () =>
  inWindow(page => {
    const { clock, last, Transport } = connected()
    page.hide()
    clock.tick(30000)
    last().reply("ok")
    page.show()
    assert.equal(Transport.made.length, 1)
  }))

test("a page shown before the reconnect is due reconnects once", () =>
  inWindow(page => {
    const { clock, last, Transport } = connected({ reconnectAfterMs: () => 5000 })
    last().drop()
    page.hide()
    page.show()
    assert.equal(Transport.made.length, 2)
    clock.tick(5000)
    assert.equal(Transport.made.length, 2)
  }))

test("an attempt from before the page was hidden is not waited for", () =>
  inWindow(page => {
    const { socket, clock, last, Transport } = setup()
    const channel = socket.channel("t")
    channel.join()
    socket.connect()
    page.hide()
    page.show()
    assert.equal(Transport.made.length, 2)
    clock.tick(10)
    last().open()
    assert.deepEqual(last().events(), ["t phx_join"])
    clock.tick(5000)
    assert.equal(Transport.made.length, 2)
  }))

test("visibilitychange and resume together make one connection", () =>
  inWindow(page => {
    const { last, Transport } = connected()
    page.hide()
    last().drop()
    page.show()
    page.resume()
    page.show()
    assert.equal(Transport.made.length, 2)
  }))

test("showing a page connects nothing that was not connected, or was disconnected", () =>
  inWindow(page => {
    const never = setup()
    const over = connected()
    over.socket.disconnect()
    over.clock.tick(1000)
    page.hide()
    page.show()
    page.comeBack()
    assert.equal(never.Transport.made.length, 0)
    assert.equal(over.Transport.made.length, 1)
  }))

test("a page that is left disconnects, and connects when it comes back from the cache", () =>
  inWindow(page => {
    const { clock, last, Transport, channel } = joined("t")
    page.leave()
    assert.ok(last().closedWith)
    clock.tick(60000)
    assert.equal(Transport.made.length, 1)
    page.comeBack()
    assert.equal(Transport.made.length, 2)
    last().open()
    assert.equal(channel.state, "joining")
    page.comeBack()
    assert.equal(Transport.made.length, 2)
  }))

test("a page that disconnected after it was left stays so when it comes back", () =>
  inWindow(page => {
    const { socket, Transport } = connected()
    page.leave()
    socket.disconnect()
    page.comeBack()
    assert.equal(Transport.made.length, 1)
  }))
