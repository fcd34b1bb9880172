/**
 * phoenix.js, the browser side of Phoenix channels: one file, no dependencies, no build step.
 *
 *     <script src="/js/phoenix.js"></script>
 *     <script>
 *       const socket = new Phoenix.Socket("/ws", { params: { token: "secret" } })
 *       socket.connect()
 *
 *       const room = socket.channel("rooms:lobby", { name: "Ann" })
 *       room.on("new:msg", message => console.log(message.body))
 *       room.join()
 *         .receive("ok", reply => console.log("joined", reply))
 *         .receive("error", reply => console.log("refused", reply))
 *
 *       room.push("new:msg", { body: "hello" }).receive("timeout", () => console.log("too slow"))
 *     </script>
 *
 * The same in the words of the first Phoenix. The callback runs again after every reconnect:
 *
 *       const socket = new Phoenix.Socket("/ws")
 *       socket.join("rooms", "lobby", { name: "Ann" }, room => {
 *         room.on("new:msg", message => console.log(message.body))
 *         room.send("new:msg", { body: "hello" })
 *       })
 *
 * `const { Socket } = require("./phoenix.js")` and `import Phoenix, { Socket } from "./phoenix.js"` work
 * in Node and in bundlers. A browser module says `import "/js/phoenix.js"` and uses the global `Phoenix`.
 *
 * The life of a message, out and in:
 *
 *     channel.push -> Push -> Socket.push -> Serializer.encode -> WebSocket or LongPoll -> the server
 *     the server -> WebSocket or LongPoll -> Serializer.decode -> Socket -> Channel.trigger -> your callback
 *
 * Contents: 1. Ground  2. Messages  3. Push  4. Channel  5. Presence  6. Long poll  7. Socket  8. Links  9. Names
 */
;(function (module) {
"use strict"

// ==========================================================================================
// 1. Ground
// ==========================================================================================
//
// Words that several chapters need: the states of a transport, time, and URLs. Time is always
// taken from a clock that can be replaced, so that a test of a ten second time-out takes none.

/** The values of `readyState`, as WebSocket defines them; LongPoll uses the same. */
const CONNECTING = 0
const OPEN = 1
const CLOSING = 2
const CLOSED = 3

/**
 * @param {any} value
 * @returns {() => any} a function that gives *value*; a function is returned as it is
 */
function callable(value) {
  return typeof value === "function" ? value : () => value
}

/** @type {(...values: any[]) => any} */
const ignore = () => {}

/**
 * @typedef {object} Timers
 * @property {(callback: () => void, ms: number) => any} setTimeout
 * @property {(handle: any) => void} clearTimeout
 * @property {{now: () => number}} [Date]
 */

/** Time, from the page or from the functions that a test gives instead. */
class Clock {
  #timers

  /** @param {Timers} [timers] */
  constructor(timers = globalThis) { this.#timers = timers }

  // The functions are looked up at each call, for tools that replace the global ones, and called
  // without `this`, because a browser's setTimeout refuses to be a method of another object.

  /** Call *callback* in *ms* milliseconds. @returns {*} a handle for `cancel` */
  after(ms, callback) {
    const { setTimeout } = this.#timers
    return setTimeout(callback, ms)
  }

  cancel(handle) {
    const { clearTimeout } = this.#timers
    clearTimeout(handle)
  }

  now() { return (this.#timers.Date ?? Date).now() }
}

/** A timer that waits longer from try to try, until `reset` says that one has succeeded. */
class Backoff {
  #handle = null
  #tries = 0

  /**
   * @param {Clock} clock
   * @param {(tries: number) => number} delay milliseconds before try 1, 2, 3 ...
   * @param {() => void} callback
   */
  constructor(clock, delay, callback) {
    this.clock = clock
    this.delay = delay
    this.callback = callback
  }

  get pending() { return this.#handle !== null }

  schedule() {
    this.cancel()
    this.#handle = this.clock.after(this.delay(this.#tries + 1), () => {
      this.#handle = null
      this.#tries += 1
      this.callback()
    })
  }

  /** Stop waiting, and remember the number of tries. */
  cancel() {
    if (this.pending) this.clock.cancel(this.#handle)
    this.#handle = null
  }

  reset() {
    this.#tries = 0
    this.cancel()
  }
}

/**
 * Add *params* to the query of *url*, nested as Plug reads them: `{ user: { id: 1 } }` becomes
 * `user[id]=1`. What is null or undefined is left out.
 */
function withParams(url, params) {
  const pairs = []
  const add = (key, value) => {
    if (value === null || value === undefined) return
    if (typeof value === "object") {
      for (const [inner, one] of Object.entries(value)) add(key === "" ? inner : `${key}[${inner}]`, one)
    } else {
      pairs.push(`${encodeURIComponent(key)}=${encodeURIComponent(value)}`)
    }
  }
  add("", params)
  if (pairs.length === 0) return url
  return url + (url.includes("?") ? "&" : "?") + pairs.join("&")
}

/** @param {Uint8Array} bytes @returns {string} */
function toBase64(bytes) {
  let binary = ""
  for (const byte of bytes) binary += String.fromCharCode(byte)
  return btoa(binary)
}

// A token travels as a WebSocket subprotocol, whose alphabet has neither "/" nor "=" (RFC 6455 §4.1).
const TOKEN_PREFIX = "base64url.bearer.phx."

function tokenToProtocol(token) {
  const base64 = toBase64(new TextEncoder().encode(token))
  return TOKEN_PREFIX + base64.replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "")
}

function protocolToToken(protocol) {
  const binary = atob(protocol.slice(TOKEN_PREFIX.length).replace(/-/g, "+").replace(/_/g, "/"))
  return new TextDecoder().decode(Uint8Array.from(binary, char => char.charCodeAt(0)))
}

// ==========================================================================================
// 2. Messages                                                              depends on: nothing
// ==========================================================================================
//
// How is a message written? As a JSON array of five, or, when its payload is binary, as bytes:
// a kind, one length byte for each field, the fields as UTF-8, and what is left is the payload.
//
// | kind        | direction | fields                           |
// |-------------|-----------|----------------------------------|
// | 0 push      | to server | join_ref, ref, topic, event      |
// | 0 push      | to client | join_ref, topic, event           |
// | 1 reply     | to client | join_ref, ref, topic, status     |
// | 2 broadcast | to client | topic, event                     |
//
// `ref` numbers a message, and the answer repeats it. `join_ref` is the ref of the join that a
// message belongs to: after a rejoin, what was still under way for the old join can be told apart.

/**
 * @typedef {object} Message
 * @property {?string} [join_ref]
 * @property {?string} [ref]
 * @property {string} topic
 * @property {string} event
 * @property {any} payload
 */

/** The fields of the binary kinds, as they come from the server. */
const FIELDS = [
  ["join_ref", "topic", "event"],
  ["join_ref", "ref", "topic", "status"],
  ["topic", "event"],
]

/** @returns {Uint8Array | null} a view of *data* without copying it, null when it is not binary */
function bytesOf(data) {
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  // not instanceof: a buffer may come from another frame of the page
  return Object.prototype.toString.call(data) === "[object ArrayBuffer]" ? new Uint8Array(data) : null
}

/** The default of the options `encode` and `decode`: version 2.0.0 of the protocol. */
const Serializer = {
  /**
   * @param {Message} message
   * @param {(data: string | ArrayBuffer) => void} callback
   */
  encode(message, callback) {
    const { join_ref, ref, topic, event, payload } = message
    const bytes = bytesOf(payload)
    if (bytes) return callback(encodeBinary({ join_ref, ref, topic, event }, bytes))
    return callback(JSON.stringify([join_ref ?? null, ref ?? null, topic, event, payload]))
  },

  /**
   * @param {string | ArrayBuffer} data one frame
   * @param {(message: Message) => void} callback
   */
  decode(data, callback) {
    return callback(typeof data === "string" ? decodeText(data) : decodeBinary(bytesOf(data)))
  },
}

function encodeBinary(fields, payload) {
  const encoder = new TextEncoder()
  const parts = Object.entries(fields).map(([name, value]) => {
    const part = encoder.encode(value ?? "")
    if (part.length > 255) {
      throw new Error(
        `unable to convert ${name} to binary: must be less than or equal to 255 bytes, ` +
          `but is ${part.length} bytes`
      )
    }
    return part
  })
  const pieces = [[0, ...parts.map(part => part.length)], ...parts, payload]
  const frame = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0))
  let at = 0
  for (const piece of pieces) {
    frame.set(piece, at)
    at += piece.length
  }
  return frame.buffer
}

function decodeText(text) {
  const parts = JSON.parse(text)
  if (!Array.isArray(parts) || parts.length !== 5) {
    throw new Error(`expected [join_ref, ref, topic, event, payload], got: ${text}`)
  }
  const [join_ref, ref, topic, event, payload] = parts
  return { join_ref, ref, topic, event, payload }
}

function decodeBinary(bytes) {
  const names = FIELDS[bytes[0]]
  if (!names) throw new Error(`expected a binary message of kind 0, 1 or 2, got: ${bytes[0]}`)
  const decoder = new TextDecoder()
  const fields = {}
  let at = 1 + names.length
  names.forEach((name, i) => {
    const end = at + bytes[1 + i]
    fields[name] = decoder.decode(bytes.subarray(at, end))
    at = end
  })
  const data = bytes.slice(at).buffer
  const { join_ref = null, ref = null, topic, event, status } = fields
  if (status === undefined) return { join_ref, ref, topic, event, payload: data }
  return { join_ref, ref, topic, event: "phx_reply", payload: { status, response: data } }
}

// ==========================================================================================
// 3. Push                                                                 depends on: Ground
// ==========================================================================================
//
// A push is one message that may be answered. It gets its ref when it is sent, and is then in
// `channel.replies` until the reply with that ref comes or its time is over. Either way it is
// resolved once, with a status: "ok", "error", "timeout", or whatever the server's reply says.

class Push {
  #hooks = []
  #timer = null
  #received = null

  /**
   * @param {Channel} channel
   * @param {string} event such as "phx_join" or "new:msg"
   * @param {object | ArrayBuffer | (() => object)} payload a function is called at each sending
   * @param {number} timeout milliseconds
   */
  constructor(channel, event, payload, timeout) {
    this.channel = channel
    this.event = event
    this.payload = callable(payload)
    this.timeout = timeout
    this.ref = null
  }

  /**
   * Call *callback* with the response when the push is answered with *status*; at once when it
   * already was.
   *
   * @param {string} status
   * @param {(response: any) => void} callback
   * @returns {Push} itself
   */
  receive(status, callback) {
    if (this.hasReceived(status)) callback(this.#received.response)
    this.#hooks.push({ status, callback })
    return this
  }

  hasReceived(status) { return this.#received !== null && this.#received.status === status }

  send() {
    if (this.hasReceived("timeout")) return // it waited too long in the channel's buffer
    this.startTimeout()
    const { channel, event, ref } = this
    const payload = this.payload()
    channel.socket.push({ join_ref: channel.joinRef(), ref, topic: channel.topic, event, payload }, channel)
  }

  /** Send again, as a new message with a new ref. */
  resend(timeout = this.timeout) {
    this.reset()
    this.timeout = timeout
    this.send()
  }

  /** Take a new ref and wait for its reply. A buffered push already does so before it is sent. */
  startTimeout() {
    this.#forget()
    this.ref = this.channel.socket.makeRef()
    this.channel.replies.set(this.ref, this)
    this.#timer = this.channel.socket.clock.after(this.timeout, () => this.trigger("timeout", {}))
  }

  cancelTimeout() { this.channel.socket.clock.cancel(this.#timer) }

  /** Forget reply and ref, as if it had not been sent. */
  reset() {
    this.#forget()
    this.ref = null
    this.#received = null
  }

  /** Act as if the server had answered. */
  trigger(status, response) {
    this.channel.trigger(replyEvent(this.ref), { status, response })
  }

  /** What a channel does with the reply. @param {{status: string, response: any}} reply */
  resolve(reply) {
    this.#forget()
    this.#received = reply
    for (const { status, callback } of [...this.#hooks]) {
      if (status === reply.status) callback(reply.response)
    }
  }

  #forget() {
    this.cancelTimeout()
    this.channel.replies.delete(this.ref)
  }
}

/** The name under which a channel hands a reply to `onMessage` and to its push. */
function replyEvent(ref) {
  return `chan_reply_${ref}`
}

// ==========================================================================================
// 4. Channel                                                        depends on: Ground, Push
// ==========================================================================================
//
// A channel is one topic on a socket, and a state machine about being joined to it:
//
//     closed --join--> joining --ok--> joined --leave--> leaving --> closed
//                         |               |
//                         +--> errored <--+      refused, timed out, crashed or disconnected
//
// From errored it goes back to joining by itself: after a pause that grows while the connection
// stands, at once when a new connection opens. What is pushed while it is not joined waits in
// `pushBuffer`, so that an application need not ask in which state a channel is.

class Channel {
  #rejoinTimer
  #bindingRef = 0

  /**
   * Made by `socket.channel(topic, params)`.
   *
   * @param {string} topic
   * @param {object | (() => object)} params sent with each join
   * @param {Socket} socket
   */
  constructor(topic, params, socket) {
    this.topic = topic
    this.params = callable(params ?? {})
    this.socket = socket
    /** @type {string} "closed", "errored", "joined", "joining" or "leaving" */
    this.state = "closed"
    this.timeout = socket.timeout
    this.joinedOnce = false
    /** @type {{event: string, ref: number, callback: Function}[]} */
    this.bindings = []
    /** @type {Push[]} */
    this.pushBuffer = []
    /** @type {Map<string, Push>} the pushes that wait for a reply, by ref */
    this.replies = new Map()

    this.#rejoinTimer = new Backoff(socket.clock, socket.rejoinAfterMs, () => {
      if (socket.isConnected()) this.rejoin()
    })
    this.joinPush = new Push(this, "phx_join", this.params, this.timeout)
      .receive("ok", () => this.#joined())
      .receive("error", () => this.refused())
      .receive("timeout", () => this.#joinTimedOut())
    this.stateChangeRefs = [
      socket.onOpen(() => this.#socketOpened()),
      socket.onError(() => this.#rejoinTimer.reset()),
    ]
  }

  /**
   * Ask the server to join the topic, now and after each loss of the connection.
   *
   * @param {number} [timeout] milliseconds
   * @returns {Push} whose "ok", "error" and "timeout" are called for this join and each rejoin
   */
  join(timeout = this.timeout) {
    if (this.joinedOnce) {
      throw new Error(
        "tried to join multiple times. 'join' can only be called a single time per channel instance"
      )
    }
    this.timeout = timeout
    this.joinedOnce = true
    this.rejoin()
    return this.joinPush
  }

  /**
   * Send *event*, or keep it until the channel is joined.
   *
   * @param {string} event
   * @param {object | ArrayBuffer} [payload] binary is sent as it is
   * @param {number} [timeout] milliseconds
   * @returns {Push}
   */
  push(event, payload = {}, timeout = this.timeout) {
    if (!this.joinedOnce) {
      throw new Error(
        `tried to push '${event}' to '${this.topic}' before joining. Use channel.join() before pushing events`
      )
    }
    const push = new Push(this, event, () => payload ?? {}, timeout)
    if (this.canPush()) {
      push.send()
    } else {
      push.startTimeout()
      this.pushBuffer.push(push)
    }
    return push
  }

  /** The first Phoenix's name of `push`. */
  send(event, message) { return this.push(event, message) }

  /**
   * Leave the topic. The channel is closed at once, without waiting for the server's reply.
   *
   * @param {object | number} [message] for the server's `leave`; a number is taken as *timeout*
   * @param {number} [timeout] milliseconds
   * @returns {Push}
   */
  leave(message = {}, timeout = this.timeout) {
    if (typeof message === "number") return this.leave({}, message)
    this.#rejoinTimer.reset()
    this.joinPush.cancelTimeout()
    this.state = "leaving"
    const push = new Push(this, "phx_leave", () => message, timeout)
    push.receive("ok", () => this.trigger("phx_close", "leave"))
    push.send()
    push.trigger("ok", {})
    return push
  }

  /**
   * Call *callback* with the payload of each *event*.
   *
   * @param {string} event
   * @param {(payload: any, ref: ?string, joinRef: ?string) => void} callback
   * @returns {number} a ref for `off`
   */
  on(event, callback) {
    const ref = this.#bindingRef++
    this.bindings.push({ event, ref, callback })
    return ref
  }

  /** Remove the binding with *ref*, or all bindings of *event*. */
  off(event, ref) {
    this.bindings = this.bindings.filter(binding => {
      return binding.event !== event || (ref !== undefined && binding.ref !== ref)
    })
  }

  /** Call *callback* when the channel is closed, by `leave` or by the server. */
  onClose(callback) { return this.on("phx_close", callback) }

  /** Call *callback* with the reason when the channel crashed or lost its connection. */
  onError(callback) { return this.on("phx_error", reason => callback(reason)) }

  /**
   * To be replaced by an application that wants to see, or change, each payload before the
   * bindings get it. Replies pass here too, as "phx_reply" and then as "chan_reply_<ref>".
   *
   * @returns {*} the payload
   */
  onMessage(event, payload, ref, joinRef) { return payload }

  /** Call the bindings of *event*, as if the server had sent it. Useful in tests. */
  trigger(event, payload, ref, joinRef) {
    const handled = this.onMessage(event, payload, ref, joinRef)
    if (payload && !handled) {
      throw new Error("channel onMessage callbacks must return the payload, modified or unmodified")
    }
    // a snapshot: a callback may add and remove bindings
    const bindings = this.bindings.filter(binding => binding.event === event)
    this.#obey(event, handled, ref)
    for (const { callback } of bindings) callback(handled, ref, joinRef || this.joinRef())
  }

  joinRef() { return this.joinPush.ref }

  canPush() { return this.socket.isConnected() && this.isJoined() }

  isClosed() { return this.state === "closed" }
  isErrored() { return this.state === "errored" }
  isJoined() { return this.state === "joined" }
  isJoining() { return this.state === "joining" }
  isLeaving() { return this.state === "leaving" }

  // What follows is between channel and socket.

  /** Is a message meant for this channel, and for its present join? */
  isMember(topic, event, payload, joinRef) {
    if (topic !== this.topic) return false
    if (!joinRef || joinRef === this.joinRef()) return true
    this.socket.log("channel", "dropping outdated message", { topic, event, payload, joinRef })
    return false
  }

  rejoin() {
    if (this.isLeaving()) return
    this.socket.leaveOpenTopic(this.topic)
    this.state = "joining"
    this.joinPush.resend(this.timeout)
  }

  /** The server said no. It may say yes later. */
  refused() {
    this.state = "errored"
    this.#rejoinLater()
  }

  #joined() {
    this.state = "joined"
    this.#rejoinTimer.reset()
    for (const push of this.pushBuffer.splice(0)) push.send()
  }

  #joinTimedOut() {
    this.socket.log("channel", `timeout ${this.topic} (${this.joinRef()})`, this.timeout)
    // the server may have joined us all the same
    if (this.socket.isConnected()) new Push(this, "phx_leave", {}, this.timeout).send()
    this.joinPush.reset()
    this.state = "errored"
    this.#rejoinLater()
  }

  #rejoinLater() { if (this.socket.isConnected()) this.#rejoinTimer.schedule() }

  #socketOpened() {
    this.#rejoinTimer.reset()
    if (this.isErrored()) this.rejoin()
  }

  /** Do what the events of the protocol itself ask for. */
  #obey(event, payload, ref) {
    if (event === "phx_reply") {
      this.trigger(replyEvent(ref), payload)
    } else if (event === "phx_close") {
      this.socket.log("channel", `close ${this.topic} ${this.joinRef()}`)
      this.#rejoinTimer.reset()
      this.state = "closed"
      this.socket.remove(this)
    } else if (event === "phx_error") {
      this.socket.log("channel", `error ${this.topic}`, payload)
      if (this.isJoining()) this.joinPush.reset()
      this.state = "errored"
      this.#rejoinLater()
    } else if (event.startsWith("chan_reply_")) {
      this.replies.get(event.slice("chan_reply_".length))?.resolve(payload)
    }
  }
}

/**
 * A channel joined by the first Phoenix's `socket.join(channel, topic, message, callback)`. Each
 * join, the first and all later ones, starts anew: no bindings, and the callback makes them. It is
 * called as soon as the join is sent, so it misses nothing that the server says while joining.
 */
class CallbackChannel extends Channel {
  #callback
  #callbackPushes = new Set()

  constructor(topic, message, socket, callback) {
    super(topic, message, socket)
    this.#callback = callback
    this.joinedOnce = true
    this.state = "errored" // to be joined when the connection opens, like one that has lost it
  }

  rejoin() {
    this.bindings = []
    // what the callback pushed for a join that failed, it will push again
    this.pushBuffer = this.pushBuffer.filter(push => !this.#callbackPushes.has(push))
    const waiting = this.pushBuffer.length
    super.rejoin()
    this.#callback?.(this)
    this.#callbackPushes = new Set(this.pushBuffer.slice(waiting))
  }

  /** No is an answer here: the next connection asks again, and nothing before. */
  refused() { this.state = "errored" }

  leave(message, timeout) {
    const push = super.leave(message, timeout)
    this.bindings = []
    return push
  }
}

// ==========================================================================================
// 5. Presence                                                           depends on: Channel
// ==========================================================================================
//
// Who is here? The server sends the whole state after each join, then only differences. A key
// (a user) has one meta for each of its connections, known by its `phx_ref`; a key is gone with its
// last meta. `syncState` reduces a new state to a difference, so one function does the work.
//
// The states have no prototype, because a user may well be called "constructor".

/** @returns {Object<string, any>} a copy of *object*'s own properties */
function copyOf(object) {
  const copy = Object.create(null)
  for (const key of Object.keys(object)) copy[key] = object[key]
  return copy
}

/** The metas of *metas* that are not among *others*. */
function without(metas, others) {
  const refs = new Set(others.map(meta => meta.phx_ref))
  return metas.filter(meta => !refs.has(meta.phx_ref))
}

class Presence {
  #pendingDiffs = []
  #callbacks = { onJoin: null, onLeave: null, onSync: null }

  /**
   * @param {Channel} channel
   * @param {{events?: {state: string, diff: string}}} [options] other names of the two events
   */
  constructor(channel, options = {}) {
    const events = options.events ?? { state: "presence_state", diff: "presence_diff" }
    this.channel = channel
    this.state = copyOf({})
    this.joinRef = null
    channel.on(events.state, state => this.#receiveState(state))
    channel.on(events.diff, diff => this.#receiveDiff(diff))
  }

  /**
   * @param {(key: string, current: ?object, joined: object) => void} callback where *current*
   *   is what was there before, undefined for a new key
   */
  onJoin(callback) { this.#callbacks.onJoin = callback }

  /**
   * @param {(key: string, current: object, left: object) => void} callback where *current* is
   *   what remains: it has no metas when all have left
   */
  onLeave(callback) { this.#callbacks.onLeave = callback }

  /** @param {() => void} callback called after each change */
  onSync(callback) { this.#callbacks.onSync = callback }

  /** @param {(key: string, presence: object) => any} [by] what to list for each key */
  list(by) { return Presence.list(this.state, by) }

  /** Is the state of the present join still to come? A diff means nothing before it. */
  inPendingSyncState() { return this.joinRef === null || this.joinRef !== this.channel.joinRef() }

  #receiveState(state) {
    const { onJoin, onLeave, onSync } = this.#callbacks
    this.joinRef = this.channel.joinRef()
    this.state = Presence.syncState(this.state, state, onJoin, onLeave)
    for (const diff of this.#pendingDiffs.splice(0)) {
      this.state = Presence.syncDiff(this.state, diff, onJoin, onLeave)
    }
    onSync?.()
  }

  #receiveDiff(diff) {
    if (this.inPendingSyncState()) {
      this.#pendingDiffs.push(diff)
      return
    }
    const { onJoin, onLeave, onSync } = this.#callbacks
    this.state = Presence.syncDiff(this.state, diff, onJoin, onLeave)
    onSync?.()
  }

  /** @returns {object} *next*, after calling *onJoin* and *onLeave* for what differs from *state* */
  static syncState(state, next, onJoin, onLeave) {
    const before = copyOf(state)
    const after = copyOf(next)
    const joins = copyOf({})
    const leaves = copyOf({})
    for (const key of Object.keys(before)) {
      if (!after[key]) leaves[key] = before[key]
    }
    for (const key of Object.keys(after)) {
      if (!before[key]) {
        joins[key] = after[key]
        continue
      }
      const joined = without(after[key].metas, before[key].metas)
      const left = without(before[key].metas, after[key].metas)
      if (joined.length > 0) joins[key] = { ...after[key], metas: joined }
      if (left.length > 0) leaves[key] = { ...before[key], metas: left }
    }
    return Presence.syncDiff(before, { joins, leaves }, onJoin, onLeave)
  }

  /** @returns {object} a new state: *state* with the joins of *diff* and without its leaves */
  static syncDiff(state, { joins, leaves }, onJoin, onLeave) {
    const synced = copyOf(state)
    for (const key of Object.keys(joins)) {
      const current = synced[key]
      const metas = joins[key].metas
      const kept = current ? without(current.metas, metas) : []
      synced[key] = { ...joins[key], metas: [...kept, ...metas] }
      onJoin?.(key, current, joins[key])
    }
    for (const key of Object.keys(leaves)) {
      if (!synced[key]) continue
      const current = { ...synced[key], metas: without(synced[key].metas, leaves[key].metas) }
      if (current.metas.length > 0) synced[key] = current
      else delete synced[key]
      onLeave?.(key, current, leaves[key])
    }
    return synced
  }

  static list(presences, by = (key, presence) => presence) {
    return Object.keys(presences).map(key => by(key, presences[key]))
  }
}

// ==========================================================================================
// 6. Long poll                                                 depends on: Ground, Messages
// ==========================================================================================
//
// Where a proxy lets no WebSocket through, HTTP must do. LongPoll looks like a WebSocket to its
// user, and makes one of two kinds of request:
//
// - GET waits at the server until there are messages, then the next GET follows. The first one has
//   no token, is answered with 410 and a token, and that is when the connection opens.
// - POST sends messages, one a line, binary ones in base64. All that is sent in one turn of the
//   event loop goes in one request, and the next waits for its answer: so they stay in order.

/** At most this many lines of one request are read by the server. */
const MAX_BATCH = 100

/** JSON over HTTP. */
class Ajax {
  /**
   * @param {string} method
   * @param {string} url
   * @param {{headers?: Record<string, string>, body?: ?string, timeout?: number, clock?: Clock}} options
   * @param {(response: ?any, problem?: "timeout") => void} callback gets null when no JSON came
   * @returns {{abort: () => void}} after whose `abort` the callback is not called
   */
  static request(method, url, { headers, body, timeout = 0, clock = new Clock() }, callback) {
    const controller = new AbortController()
    const { signal } = controller
    const timer = timeout > 0 ? clock.after(timeout, () => controller.abort("timeout")) : null
    fetch(url, { method, headers, body, signal })
      .then(response => response.json())
      .catch(() => null)
      .then(response => {
        clock.cancel(timer)
        if (!signal.aborted) callback(response)
        else if (signal.reason === "timeout") callback(null, "timeout")
      })
    return { abort: () => controller.abort() }
  }
}

class LongPoll {
  #url
  #authToken = null
  #token = null
  #requests = new Set()
  #deliveries = new Set()
  #outbox = []
  #postTimer = null
  #posting = false
  #closeEmitted = false

  /**
   * @param {string} url of the WebSocket that this stands in for: `ws://host/ws/websocket?vsn=2.0.0`
   * @param {string[]} [protocols] a token may be among them, see `Socket`'s option `authToken`
   */
  constructor(url, protocols = []) {
    this.#url = url.replace(/^ws/, "http").replace(/\/websocket(?=\?|$)/, "/longpoll")
    const protocol = protocols.find(one => one.startsWith(TOKEN_PREFIX))
    if (protocol) this.#authToken = protocolToToken(protocol)
    this.readyState = CONNECTING
    this.skipHeartbeat = true // every GET is one
    this.timeout = 20000
    this.clock = new Clock()
    this.onopen = this.onmessage = this.onerror = this.onclose = ignore
    // a moment later, when the caller has set the properties above
    queueMicrotask(() => this.#poll())
  }

  /** How many messages the server has not acknowledged, so that a closing socket waits for them. */
  get bufferedAmount() { return this.#outbox.length + (this.#posting ? 1 : 0) }

  send(data) {
    this.#outbox.push(typeof data === "string" ? data : toBase64(bytesOf(data)))
    if (this.#posting || this.#postTimer !== null) return
    this.#postTimer = this.clock.after(0, () => this.#post())
  }

  close(code = 1005, reason = "", wasClean = true) {
    this.#stop()
    this.#emitClose({ code, reason, wasClean })
  }

  #poll() {
    if (this.readyState === CLOSED) return
    const headers = { Accept: "application/json" }
    if (this.#authToken !== null) headers["X-Phoenix-AuthToken"] = this.#authToken
    this.#ask("GET", headers, null, response => this.#polled(response ?? { status: 0 }))
  }

  #polled({ status, token, messages = [] }) {
    const isKnown = this.#token !== null
    if (token) this.#token = token
    switch (status) {
      case 200:
        for (const message of messages) this.#deliver(message)
        return this.#poll()
      case 204:
        return this.#poll()
      case 410:
        // the server has forgotten a session that had channels: as good as a lost connection
        if (isKnown) return this.#fail(410, 3410, "session_gone")
        this.readyState = OPEN
        this.onopen({})
        return this.#poll()
      case 403:
        return this.#fail(403, 1008, "forbidden")
      default:
        return this.#fail(500, 1011, "internal server error")
    }
  }

  // Each message is delivered in a turn of the event loop of its own, as a WebSocket does it: the
  // promises that one message resolves are served before the next message comes.
  #deliver(data) {
    const timer = this.clock.after(0, () => {
      this.#deliveries.delete(timer)
      this.onmessage({ data })
    })
    this.#deliveries.add(timer)
  }

  #post() {
    this.#postTimer = null
    this.#posting = true
    const lines = this.#outbox.splice(0, MAX_BATCH).join("\n")
    this.#ask("POST", { "Content-Type": "application/x-ndjson" }, lines, response => {
      this.#posting = false
      if (response?.status !== 200) this.#fail(response?.status, 1011, "internal server error")
      else if (this.#outbox.length > 0) this.#post()
    })
  }

  #ask(method, headers, body, answer) {
    const url = withParams(this.#url, { token: this.#token })
    const { timeout, clock } = this
    const request = Ajax.request(method, url, { headers, body, timeout, clock }, (response, problem) => {
      this.#requests.delete(request)
      if (this.readyState === CLOSED) return
      if (problem === "timeout") this.#fail("timeout", 1005, "timeout")
      else answer(response)
    })
    this.#requests.add(request)
  }

  #fail(error, code, reason) {
    this.#stop()
    this.onerror(error)
    this.#emitClose({ code, reason, wasClean: false })
  }

  #stop() {
    this.readyState = CLOSED
    for (const request of this.#requests) request.abort()
    for (const timer of this.#deliveries) this.clock.cancel(timer)
    this.clock.cancel(this.#postTimer)
    this.#requests.clear()
    this.#deliveries.clear()
    this.#outbox = []
    this.#posting = false
  }

  #emitClose(event) {
    if (this.#closeEmitted) return
    this.#closeEmitted = true
    this.onclose(event)
  }
}

// ==========================================================================================
// 7. Socket                              depends on: Ground, Messages, Channel, Long poll
// ==========================================================================================
//
// One connection that many channels share, and that is made again when it breaks. What must hold:
//
// - A transport (a WebSocket or a LongPoll) is used once. `#connection` is the present one, and
//   the events of all others are ignored, however late they come.
// - A connection ends in one place, `#closed`: because its transport says so, or because nobody
//   wants to wait for that. So the channels learn of it once, and so does `onClose`.
// - `#wanted` is what the application wants, by `connect` and `disconnect`. A connection that ends
//   while it is wanted is made again: after a growing pause, and not while the page is hidden.
// - The server must answer a heartbeat before the next is due; silence is a broken connection.

/**
 * @typedef {object} SocketOptions
 * @property {Function} [transport] class to connect with: default WebSocket, else LongPoll
 * @property {boolean} [autoConnect] connect at once, as the first Phoenix did
 * @property {object | (() => object)} [params] for the server's `connect`, in the query of the URL
 * @property {string | (() => string)} [authToken] the same, but kept out of the URL
 * @property {number} [timeout] of pushes, default 10000 ms
 * @property {number} [heartbeatIntervalMs] default 30000 ms
 * @property {(tries: number) => number} [reconnectAfterMs]
 * @property {(tries: number) => number} [rejoinAfterMs]
 * @property {number} [longPollFallbackMs] use LongPoll when no WebSocket works within that time
 * @property {number} [longpollerTimeout] of one HTTP request, default 20000 ms
 * @property {(message: Message, callback: (data: any) => void) => void} [encode] not for LongPoll
 * @property {(data: any, callback: (message: Message) => void) => void} [decode] not for LongPoll
 * @property {string} [vsn] version of the protocol, default "2.0.0"
 * @property {string} [binaryType] default "arraybuffer"
 * @property {(kind: string, text: string, data: any) => void} [logger]
 * @property {boolean} [debug] log to the console
 * @property {Storage} [sessionStorage] where the need for LongPoll is remembered
 * @property {Timers} [timers] for tests
 */

const FALLBACK_KEY = "phx:fallback:LongPoll"

class Socket {
  #connection = null
  #wanted = false
  #callbackRef = 0
  #callbacks = { open: [], close: [], error: [], message: [] }
  #options
  #reconnectTimer
  #heartbeatTimer = null
  #heartbeatRef = null
  #fallbackTimer = null
  #fellBack = false
  #primaryIsHealthy = false
  #connectWhenShown = false

  /**
   * @param {string} endPoint where the server mounts its socket: "/ws", "//host/ws" or "wss://host/ws"
   * @param {SocketOptions} [options]
   */
  constructor(endPoint, options = {}) {
    this.#options = options
    this.endPoint = `${endPoint.replace(/\/+$/, "")}/websocket`
    this.clock = new Clock(options.timers)
    this.timeout = options.timeout || 10000
    this.heartbeatIntervalMs = options.heartbeatIntervalMs || 30000
    this.reconnectAfterMs =
      options.reconnectAfterMs ?? (tries => [10, 50, 100, 150, 200, 250, 500, 1000, 2000][tries - 1] ?? 5000)
    this.rejoinAfterMs = options.rejoinAfterMs ?? (tries => [1000, 2000, 5000][tries - 1] ?? 10000)
    this.longPollFallbackMs = options.longPollFallbackMs
    this.longpollerTimeout = options.longpollerTimeout || 20000
    this.params = callable(options.params ?? {})
    this.authToken = options.authToken && callable(options.authToken)
    this.vsn = options.vsn || "2.0.0"
    this.binaryType = options.binaryType || "arraybuffer"
    this.logger = options.logger ?? (options.debug ? logToConsole : null)
    /** @type {Channel[]} */
    this.channels = []
    /** @type {(() => void)[]} */
    this.sendBuffer = []
    this.establishedConnections = 0
    this.ref = 0
    this.#use(options.transport ?? globalThis.WebSocket ?? LongPoll)
    this.#reconnectTimer = new Backoff(this.clock, this.reconnectAfterMs, () => this.#reconnect())
    this.#watchPage()
    if (options.autoConnect) this.connect()
  }

  // ---- connecting ----

  /** @returns {string} what to connect to, in full */
  endPointURL() {
    const url = withParams(withParams(this.endPoint, this.params()), { vsn: this.vsn })
    if (!url.startsWith("/")) return url
    if (!globalThis.location) {
      throw new Error(
        `the socket's end point is ${this.endPoint}, which is relative to a page, and there is none. ` +
          "Give a whole URL, such as ws://localhost:4000/ws"
      )
    }
    const protocol = location.protocol.startsWith("https") ? "wss:" : "ws:"
    return url.startsWith("//") ? protocol + url : `${protocol}//${location.host}${url}`
  }

  /** Connect, unless that is already done or under way, and stay connected until `disconnect`. */
  connect() {
    this.#connectWhenShown = false
    if (this.#wanted && (this.#connection || this.#reconnectTimer.pending)) return
    this.#wanted = true
    this.#open()
  }

  /**
   * Close the connection when what was sent has left the page, and do not make it again.
   *
   * @param {?() => void} [callback] called when it is closed, after 3 seconds at the latest
   * @param {number} [code] 1000, or 3000 to 4999
   * @param {string} [reason]
   */
  disconnect(callback, code, reason) {
    this.#connectWhenShown = false
    this.#wanted = false
    this.#reconnectTimer.reset()
    this.clock.cancel(this.#fallbackTimer)
    this.#clearHeartbeat()
    const connection = this.#connection
    if (!connection) return callback?.()

    const { transport } = connection
    connection.isEnding = true
    const isSent = () => !transport.bufferedAmount || transport.readyState !== OPEN
    this.#waitUntil(isSent, () => {
      closeTransport(transport, code, reason)
      this.#failChannels(connection, "connection_closed")
      this.#waitUntil(() => transport.readyState === CLOSED, () => {
        this.#closed(connection, closeEvent(code, reason))
        callback?.()
      })
    })
  }

  /** The first Phoenix's name of `disconnect`. */
  close(callback, code, reason) { this.disconnect(callback, code, reason) }

  /** Disconnect, and use *transport* (a class) from the next `connect` on. */
  replaceTransport(transport) {
    this.#wanted = false
    this.#reconnectTimer.reset()
    this.clock.cancel(this.#fallbackTimer)
    this.#use(transport)
    if (this.#connection) this.#cut(this.#connection)
  }

  /** The transport in use: a WebSocket, a LongPoll, or null. */
  get conn() { return this.#connection && this.#connection.transport }

  /** @returns {"connecting" | "open" | "closing" | "closed"} */
  connectionState() {
    switch (this.conn?.readyState) {
      case CONNECTING: return "connecting"
      case OPEN: return "open"
      case CLOSING: return "closing"
      default: return "closed"
    }
  }

  isConnected() { return this.connectionState() === "open" }

  // ---- what an application can listen to ----

  /** @param {() => void} callback @returns {string} a ref for `off` */
  onOpen(callback) { return this.#register("open", callback) }

  /** @param {(event: CloseEvent) => void} callback @returns {string} a ref for `off` */
  onClose(callback) { return this.#register("close", callback) }

  /**
   * @param {(error: any, transport: Function, establishedConnections: number) => void} callback
   * @returns {string} a ref for `off`
   */
  onError(callback) { return this.#register("error", callback) }

  /** @param {(message: Message) => void} callback @returns {string} a ref for `off` */
  onMessage(callback) { return this.#register("message", callback) }

  /** @param {string[]} refs what `onOpen`, `onClose`, `onError` and `onMessage` returned */
  off(refs) {
    for (const kind of Object.keys(this.#callbacks)) {
      this.#callbacks[kind] = this.#callbacks[kind].filter(({ ref }) => !refs.includes(ref))
    }
  }

  #register(kind, callback) {
    this.#callbackRef += 1
    const ref = `${kind}:${this.#callbackRef}`
    this.#callbacks[kind].push({ ref, callback })
    return ref
  }

  #call(kind, ...values) {
    for (const { callback } of this.#callbacks[kind]) callback?.(...values)
  }

  log(kind, text, data) { if (this.logger) this.logger(kind, text, data) }

  // ---- channels and messages ----

  /**
   * @param {string} topic such as "rooms:lobby"
   * @param {object | (() => object)} [params] sent with the join
   * @returns {Channel} to be joined by its `join()`
   */
  channel(topic, params = {}) { return this.#add(new Channel(topic, params, this)) }

  /**
   * Join "channel:topic", now or as soon as there is a connection, and call *callback* with the channel
   * each time the join is sent: this time, and again after each reconnect. Connects when needed.
   *
   * @param {string} channel
   * @param {string} topic
   * @param {object} [message] for the server's `join`
   * @param {(channel: Channel) => void} [callback]
   * @returns {Channel}
   */
  join(channel, topic, message = {}, callback) {
    const joined = this.#add(new CallbackChannel(`${channel}:${topic}`, message, this, callback))
    this.connect()
    if (this.isConnected()) joined.rejoin()
    return joined
  }

  #add(channel) {
    this.channels.push(channel)
    return channel
  }

  /** Forget a channel. It does so itself when it is closed. */
  remove(channel) {
    this.off(channel.stateChangeRefs)
    this.channels = this.channels.filter(one => one !== channel)
  }

  /** A topic is joined once on a socket: leave it where it is, before it is joined elsewhere. */
  leaveOpenTopic(topic) {
    const open = this.channels.find(one => one.topic === topic && (one.isJoined() || one.isJoining()))
    if (!open) return
    this.log("transport", `leaving duplicate topic "${topic}"`)
    open.leave()
  }

  /**
   * Send *message*, or keep it until there is a connection.
   *
   * @param {Message} message
   * @param {Channel} [channel] that it belongs to, if any
   */
  push(message, channel) {
    const { topic, event, payload, ref, join_ref } = message
    this.log("push", `${topic} ${event} (${join_ref}, ${ref})`, payload)
    if (this.isConnected()) {
      this.#send(message)
      return
    }
    this.sendBuffer.push(() => {
      // When the channel gave up this join meanwhile, it joins anew by itself, and to send this
      // one as well would join twice.
      const isOutdated = channel && (channel.isClosed() || channel.joinRef() !== join_ref)
      if (!isOutdated) this.#send(message)
    })
  }

  #send(message) {
    const connection = this.#connection
    if (message.event === "phx_join") connection.joinRefs.add(message.join_ref)
    this.encode(message, data => {
      // an application's `encode` may take its time
      if (connection === this.#connection && this.isConnected()) connection.transport.send(data)
    })
  }

  /** @returns {string} the next ref: "1", "2", ... */
  makeRef() {
    const next = this.ref + 1
    this.ref = next === this.ref ? 0 : next // numbers end where adding one changes nothing
    return String(this.ref)
  }

  /**
   * Measure the way to the server and back.
   *
   * @param {(ms: number) => void} callback
   * @returns {boolean} false when there is no connection
   */
  ping(callback) {
    if (!this.isConnected()) return false
    const ref = this.makeRef()
    const start = this.clock.now()
    this.#connection.pings.set(ref, () => callback(this.clock.now() - start))
    this.push({ topic: "phoenix", event: "heartbeat", payload: {}, ref })
    return true
  }

  // ---- the life of a connection ----

  #use(transport) {
    const { encode, decode } = transport === LongPoll ? Serializer : this.#options
    this.transport = transport
    this.encode = encode ?? Serializer.encode
    this.decode = decode ?? Serializer.decode
  }

  #open() {
    const previous = this.#connection
    if (previous) {
      // `connect` came while the last connection was still closing: that may go on unobserved
      this.#closed(previous, closeEvent())
      if (this.#connection) return // a callback has connected already
    }
    this.#reconnectTimer.cancel()
    this.#prepareFallback()

    const protocols = this.authToken ? ["phoenix", tokenToProtocol(this.authToken())] : undefined
    const transport = new this.transport(this.endPointURL(), protocols)
    const connection = {
      transport,
      isEnding: false, // we want to be rid of it
      isFresh: false, // made since the page was shown
      joinRefs: new Set(), // of the joins sent over it
      pings: new Map(), // callbacks by ref
    }
    const whileCurrent = handler => event => {
      if (connection === this.#connection) handler(event)
    }
    transport.binaryType = this.binaryType
    transport.timeout = this.longpollerTimeout
    transport.clock = this.clock
    transport.onopen = whileCurrent(() => this.#opened())
    transport.onerror = whileCurrent(error => this.#failed(connection, error))
    transport.onmessage = whileCurrent(event => this.#received(connection, event.data))
    transport.onclose = whileCurrent(event => this.#closed(connection, event))
    this.#connection = connection
  }

  #opened() {
    this.log("transport", `connected to ${this.endPointURL()}`)
    this.establishedConnections += 1
    this.#reconnectTimer.reset()
    for (const send of this.sendBuffer.splice(0)) send()
    this.#scheduleHeartbeat()
    this.#checkPrimary()
    this.#call("open")
  }

  #received(connection, data) {
    this.decode(data, message => {
      if (connection !== this.#connection) return // an application's `decode` may take its time
      const { topic, event, payload, ref, join_ref } = message
      this.log("receive", `${payload?.status || ""} ${topic} ${event} ${ref ? `(${ref})` : ""}`, payload)
      if (ref && ref === this.#heartbeatRef) this.#scheduleHeartbeat()
      for (const channel of [...this.channels]) {
        if (channel.isMember(topic, event, payload, join_ref)) channel.trigger(event, payload, ref, join_ref)
      }
      this.#call("message", message)
      const pong = connection.pings.get(ref)
      connection.pings.delete(ref)
      if (pong) pong()
    })
  }

  #failed(connection, error) {
    if (connection.isEnding) return // to close a WebSocket that is still connecting is an "error"
    this.log("transport", "error", error)
    this.#call("error", error, this.transport, this.establishedConnections)
    if (connection !== this.#connection || connection.isEnding) return // a callback has seen to it
    if (this.#isOnTrial() && this.establishedConnections === 0) return this.#fallBack(error)
    this.#failChannels(connection, "connection_error")
    // a close follows at once, but not from Node 20 when the WebSocket was never open
    if (connection.transport.readyState === CONNECTING) {
      this.clock.after(0, () => this.#closed(connection, closeEvent(1006), "connection_error"))
    }
  }

  /** The one end of every connection. Called twice, it acts once. */
  #closed(connection, event, because = "connection_closed") {
    if (connection !== this.#connection) return
    this.#connection = null
    this.log("transport", "close", event)
    this.clock.cancel(this.#fallbackTimer)
    this.#clearHeartbeat()
    this.#failChannels(connection, because)
    // whatever the close code: not only servers, but also proxies close with 1000
    if (this.#wanted && !this.#connection) this.#reconnectTimer.schedule()
    this.#call("close", event)
  }

  /** End a connection without waiting for its transport. */
  #cut(connection, code, reason, because) {
    connection.isEnding = true
    connection.transport.onclose = ignore // a long poll says at once that it is closed, a WebSocket later
    closeTransport(connection.transport, code, reason)
    this.#closed(connection, closeEvent(code, reason), because)
  }

  #failChannels(connection, reason) {
    for (const channel of [...this.channels]) {
      // A channel that waits for the next connection does not care how we part with this one.
      if (connection.isEnding && !connection.joinRefs.has(channel.joinRef())) continue
      if (!channel.isJoined() && !channel.isJoining()) continue
      channel.trigger("phx_error", { source: "transport", reason })
    }
  }

  #reconnect() {
    if (isPageHidden()) this.log("transport", "not reconnecting while the page is hidden")
    else this.#open()
  }

  #waitUntil(condition, callback, tries = 1) {
    if (condition() || tries === 5) callback()
    else this.clock.after(150 * tries, () => this.#waitUntil(condition, callback, tries + 1))
  }

  // ---- heartbeat ----

  #scheduleHeartbeat() {
    this.#clearHeartbeat()
    if (this.conn.skipHeartbeat) return
    this.#heartbeatTimer = this.clock.after(this.heartbeatIntervalMs, () => this.#sendHeartbeat())
  }

  #clearHeartbeat() {
    this.clock.cancel(this.#heartbeatTimer)
    this.#heartbeatRef = null
  }

  #sendHeartbeat() {
    const connection = this.#connection
    this.#heartbeatRef = this.makeRef()
    this.#heartbeatTimer = this.clock.after(this.heartbeatIntervalMs, () => {
      this.log("transport", "heartbeat timeout. Attempting to re-establish connection")
      this.#cut(connection, 1000, "heartbeat timeout", "heartbeat_timeout")
    })
    this.push({ topic: "phoenix", event: "heartbeat", payload: {}, ref: this.#heartbeatRef })
  }

  // ---- long-poll fallback ----
  //
  // With `longPollFallbackMs`, the primary transport is on trial at every connect: it must open
  // within that time, and then answer a ping within the same time; and an error before it ever opened
  // condemns it at once. If it was never healthy, the session remembers that LongPoll is needed here.

  #isOnTrial() { return Boolean(this.longPollFallbackMs) && this.transport !== LongPoll }

  #prepareFallback() {
    if (!this.#isOnTrial()) return
    if (this.#session(store => store.getItem(FALLBACK_KEY))) {
      this.log("transport", "falling back to LongPoll...", "memorized")
      this.#fellBack = true
      this.#use(LongPoll)
    } else {
      this.#startTrial()
    }
  }

  #startTrial() {
    this.clock.cancel(this.#fallbackTimer)
    this.#fallbackTimer = this.clock.after(this.longPollFallbackMs, () => this.#fallBack("timeout"))
  }

  #checkPrimary() {
    if (this.#isOnTrial()) {
      this.#startTrial()
      this.ping(ms => {
        this.log("transport", "connected to primary after", ms)
        this.#primaryIsHealthy = true
        this.clock.cancel(this.#fallbackTimer)
      })
    } else if (this.#fellBack) {
      this.log("transport", "established LongPoll fallback")
      if (!this.#primaryIsHealthy) this.#session(store => store.setItem(FALLBACK_KEY, "true"))
    }
  }

  #fallBack(reason) {
    this.log("transport", "falling back to LongPoll...", reason)
    this.#fellBack = true
    this.replaceTransport(LongPoll)
    this.connect()
  }

  #session(use) {
    try {
      return use(this.#options.sessionStorage ?? globalThis.sessionStorage)
    } catch {
      return null // a page may have no storage, or not be allowed to use it, or have filled it
    }
  }

  // ---- the page ----
  //
  // A page that is left for another may come back from the browser's cache, but only without a
  // connection: so it is closed on "pagehide" and made again on "pageshow". In a hidden tab, lost
  // connections stay lost until it is looked at again.

  #watchPage() {
    if (!globalThis.window?.addEventListener) return
    window.addEventListener("pagehide", () => {
      if (!this.#wanted) return
      this.disconnect()
      this.#connectWhenShown = true
    })
    window.addEventListener("pageshow", () => {
      if (this.#connectWhenShown) this.connect()
    })
    window.addEventListener("visibilitychange", () => this.#visibilityChanged())
    // not every browser tells of visibility when a frozen page goes on
    globalThis.document?.addEventListener?.("resume", () => this.#visibilityChanged())
  }

  #visibilityChanged() {
    const connection = this.#connection
    if (isPageHidden()) {
      if (connection) connection.isFresh = false
      return
    }
    if (!this.#wanted || this.isConnected() || connection?.isFresh) return
    // An attempt from before the page was hidden may be stuck for long.
    if (connection) this.#cut(connection)
    this.#reconnectTimer.reset()
    if (this.#wanted && !this.#connection) this.#open()
    if (this.#connection) this.#connection.isFresh = true
  }
}

function logToConsole(kind, text, data) {
  console.log(`${kind}: ${text}`, data)
}

function closeTransport(transport, code, reason) {
  if (code) transport.close(code, reason ?? "")
  else transport.close()
}

/** What `onClose` gets for a connection that ended before its transport was closed. */
function closeEvent(code = 1005, reason = "") {
  return { code, reason, wasClean: false }
}

function isPageHidden() {
  return globalThis.document?.visibilityState === "hidden"
}

// ==========================================================================================
// 8. Links                                                              depends on: nothing
// ==========================================================================================
//
// What HTML cannot say by itself: a link or button with `data-confirm="Sure?"` asks before it does
// anything, one with `data-method="delete"` sends a form. (What `link` and `button` of phoenix.py
// write needs only the first: they write forms.) The form carries the token against forged
// requests, from `data-csrf` or the page's `<meta name="csrf-token">`, to this site and no other.

function followLinks(event) {
  const element = event.target.closest?.("a, button, input")
  const { confirm: question, method } = element?.dataset ?? {}
  if (question && !window.confirm(question)) {
    event.preventDefault()
    event.stopImmediatePropagation()
  } else if (method) {
    event.preventDefault()
    sendForm(element, method.toLowerCase(), event.metaKey || event.ctrlKey || event.shiftKey)
  }
}

function sendForm(element, method, inNewTab) {
  const url = new URL(element.dataset.to ?? element.getAttribute("href"), document.baseURI)
  if (!/^https?:$/.test(url.protocol)) return
  const token = element.dataset.csrf ?? document.querySelector("meta[name=csrf-token]")?.content
  const form = document.createElement("form")
  form.hidden = true
  form.action = url
  form.method = method === "get" ? "get" : "post"
  form.target = element.target || (inNewTab ? "_blank" : "_self")
  const add = (name, value) => form.append(Object.assign(document.createElement("input"), { name, value }))
  if (method !== "get" && method !== "post") add("_method", method)
  if (method !== "get" && token && url.origin === location.origin) add("_csrf_token", token)
  document.body.append(form)
  form.requestSubmit()
  form.remove()
}

const WATCHED = Symbol.for("phoenix.js follows links") // by whichever copy of this file came first

if (globalThis.document?.addEventListener && !document[WATCHED]) {
  document[WATCHED] = true
  document.addEventListener("click", followLinks, true)
}

// ==========================================================================================
// 9. Names                                                            depends on: all above
// ==========================================================================================
//
// Node and bundlers hand a file a `module` to fill. A browser does not: then the object becomes
// the global `Phoenix`. It is written as a literal because Node looks for it to offer the
// names to `import { Socket }`.

module.exports = { Ajax, Channel, LongPoll, LongPoller: LongPoll, Presence, Push, Serializer, Socket }
})(
  typeof module === "object" && module.exports
    ? module
    : { set exports(names) { globalThis.Phoenix = names } }
)
