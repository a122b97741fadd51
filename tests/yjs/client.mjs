// An unmodified Yjs client: joins a shared document, prints its content after every change, obeys lines of JSON.
//     node client.mjs URL ROOM TOKEN
import readline from 'node:readline'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'

const [url, room, token] = process.argv.slice(2)
const doc = new Y.Doc()
const provider = new WebsocketProvider(url, room, doc, { WebSocketPolyfill: WebSocket, params: { token }, disableBc: true })
const say = (message) => console.log(JSON.stringify(message))
const content = () => ({
  dict: doc.getMap('dict').toJSON(),
  list: doc.getArray('list').toJSON(),
  text: doc.getText('text').toString(),
  others: [...provider.awareness.getStates().entries()].filter(([id]) => id !== doc.clientID).map(([, state]) => state),
})

provider.on('sync', (synced) => say({ synced, ...content() }))
provider.on('connection-close', (event) => say({ closed: event?.code ?? null }))
provider.awareness.on('change', () => say(content()))
doc.on('update', () => say(content()))

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line)
  if (command.set) doc.getMap('dict').set(...command.set)
  if (command.push) doc.getArray('list').push(command.push)
  if (command.insert) doc.getText('text').insert(...command.insert)
  if (command.aware) provider.awareness.setLocalStateField('user', command.aware)
}).on('close', () => {
  provider.destroy()
  process.exit(0)
})
