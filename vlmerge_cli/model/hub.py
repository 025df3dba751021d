class HubFolder: pass
