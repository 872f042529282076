-- Read by HAProxy (lua-load). Asks egress-router where a connection goes: by_name/router.py has the question and answer.
-- What sets no variable refuses the connection.
core.register_action("route", { "tcp-req", "http-req" }, function(txn, kind, port, path)
    local host
    if kind == "tls" then
        host = txn.f:req_ssl_sni()
    else
        host = txn.f:req_fhdr("host")
    end
    local socket = core.tcp()
    socket:settimeout(25)
    if not socket:connect(path) then
        return
    end
    local question = kind .. " " .. txn.f:src() .. " " .. port .. " " .. txn.c:hex(host or "") .. "\n"
    socket:send(question)
    local answer = socket:receive("*l")
    socket:close()
    local address, status, record = string.match(answer or "", "^(%S+) (%d+) (%S+)$")
    if not record then
        return
    end
    txn:set_var("txn.record", record)
    txn:set_var("txn.status", status)
    if address ~= "-" then
        txn:set_var("txn.address", address)
    end
end, 3)
